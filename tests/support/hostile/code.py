"""Tables that ask for code, and harmless ones with other programs' objects; each by its name.

Every opcode that can call or import, and the names that published payloads use.
"""

from support.hostile.parts import COMMAND, TENSOR, calls, item, named, stack_global, table, text

# Names that published payloads call.
NAMES = (
    "os.system",
    "posix.system",
    "nt.system",
    "os.popen",
    "os.execv",
    "os.spawnl",
    "subprocess.call",
    "subprocess.Popen",
    "subprocess.check_output",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.__import__",
    "builtins.open",
    "builtins.print",
    "builtins.globals",
    "__builtin__.eval",
    "__builtin__.file",
    "importlib.import_module",
    "runpy.run_path",
    "runpy._run_code",
    "pty.spawn",
    "socket.create_connection",
    "shutil.rmtree",
    "webbrowser.open",
    "urllib.request.urlopen",
    "http.client.HTTPConnection",
    "ctypes.CDLL",
    "pickle.loads",
    "_pickle.loads",
    "marshal.loads",
    "types.FunctionType",
    "types.CodeType",
    "code.interact",
    "timeit.timeit",
    "cProfile.run",
    "pdb.run",
    "bdb.Bdb",
    "asyncio.run",
    "multiprocessing.Process",
    "threading.Thread",
    "functools.reduce",
    "operator.methodcaller",
    "operator.attrgetter",
    "sys.setprofile",
    "pydoc.pipepager",
    "lib2to3.pgen2.grammar.Grammar.loads",
    "venv.create",
    "logging.config._resolve",
    "zipimport.zipimporter",
    "tempfile.mkstemp",
    "signal.signal",
    "atexit.register",
    "torch.hub.load",
    "torch.load",
    "torch.jit.load",
    "torch.storage._load_from_bytes",
    "torch.utils.model_zoo.load_url",
    "torch.utils.cpp_extension.load",
    "torch.package.PackageImporter",
    "torch.serialization.load",
    "numpy.load",
    "numpy.testing._private.utils.runstring",
    "numpy.f2py.compile",
    "pandas.read_pickle",
    "pip.main",
    "dill.loads",
    "cloudpickle.loads",
    "joblib.load",
    "requests.get",
    "IPython.start_ipython",
    "torch.fx.graph_module.reduce_graph_module",
    "torch.serialization.os.system",
    "collections.abc.sys.modules",
    "numpy.core.os.system",
    "pytorch_lightning.utilities.__globals__.eval",
    "typing.get_type_hints",
    "typing.sys",
    "typing.NamedTuple",
    "enum.bltns",
    "enum.global_enum",
    "collections._sys",
    "collections.namedtuple",
    "collections.abc._type_repr",
    "copyreg.pickle",
    "copyreg.add_extension",
    "numbers.ABCMeta",
    "typing_extensions.get_type_hints",
    "torch._utils._import_dotted_name",
    "torch._utils.importlib.import_module",
    "torch._C._import_py_object",
    "torch.utils.benchmark.Timer",
    "torch.utils.data.datapipes.iter.FileOpener",
    "torch.distributed.run.main",
    "torch.distributed.TCPStore",
    "torch.from_file",
    "torch.save",
    "torch.nn.modules.module.torch.hub.load",
    "torch.nn.functional.importlib",
    "torch.nn.parallel.distributed.logging.FileHandler",
    "torch.PyTorchFileReader",
    "numpy.core.numeric.load",
    "numpy.core._ufunc_reconstruct",
    "numpy.loads",
    "numpy.savetxt",
    "numpy.ndarray.tofile",
    "numpy.vectorize",
    "torchvision.models.vgg.torch.load",
    "timm.models.layers.np.load",
    "mine.pd.read_pickle",
    "pandas.DataFrame.query",
    "pandas.core.frame.DataFrame.to_pickle",
    "lightning_fabric.utilities.cloud_io._load",
    "pytorch_lightning.core.saving.ModelIO.load_from_checkpoint",
    "pytorch_lightning.cli.instantiate_class",
    "lightning_utilities.core.imports.LazyModule",
    "omegaconf.OmegaConf.load",
    "omegaconf._utils._get_class",
    "hydra.utils.instantiate",
    "ldm.util.get_obj_from_str",
    "ldm.util.instantiate_from_config",
    "fsspec.open",
    "six._import_module",
    "pydantic.utils.import_string",
    "pydantic.types.PyObject",
    "transformers.AutoModel.from_pretrained",
    "transformers.dynamic_module_utils.get_class_from_dynamic_module",
    "mmcv.Config.fromfile",
    "wandb.util.get_module",
    "attr._make._compile_and_eval",
    "mine.config.exec_",
    "sklearn.externals.joblib.load",
    "mine.Config.make.__call__",
    "mine.Config.__init__.__self__",
)


def attribute(owner: bytes, *rest: bytes) -> bytes:
    """A call of getattr."""
    return named("builtins.getattr") + b"(" + owner + b"".join(rest) + b"tR"


def hidden_attributes() -> dict[str, bytes]:
    """Items that use getattr so that the attribute's name isn't seen, or isn't the one that counts."""
    getattr_, thing, name = named("builtins.getattr"), named("mine.Thing"), text("__globals__")
    rebuild = named("torch._tensor._rebuild_from_type_v2")
    partial = named("functools.partial")
    made = named("builtins.str") + b"(" + name + b"tR"
    chain = attribute(named("torch._utils._rebuild_tensor"), name, b"N")
    for key in ("__builtins__", "eval"):
        chain = attribute(named("builtins.dict"), text("get"), b"N") + b"(" + chain + text(key) + b"tR"
    return {
        "with a default": attribute(thing, name, b"N"),
        "to eval, with defaults": chain + b"(" + text(COMMAND) + b"tR",
        "another's default": attribute(attribute(thing, text("x"), named("mine.other")), text("y")),
        "of a name that is made": attribute(thing, made),
        "of bytes": attribute(thing, b"C\x01x"),
        "of one argument": attribute(thing),
        "of nothing": attribute(b""),
        "by rebuild_from_type": rebuild + b"(" + getattr_ + named("torch.Tensor") + b"(" + thing + name + b"tNtR",
        "of rebuild_from_type, by partial": rebuild
        + b"("
        + partial
        + b"("
        + getattr_
        + thing
        + b"tRN("
        + name
        + b"tNtR",
        "by partial": partial + b"(" + getattr_ + thing + b"tR(" + name + b"tR",
        "by another function": named("mine.run") + b"(" + getattr_ + thing + name + b"tR",
        "in a short tuple": getattr_ + b"\x85",
        "in a list": b"]" + getattr_ + b"a",
        "in a list since a mark": b"(" + getattr_ + b"l",
        "in a list of several": b"](" + getattr_ + b"e",
        "in a set": b"\x8f(" + getattr_ + b"\x90",
        "in a frozenset": b"(" + getattr_ + b"\x91",
        "in a table": b"}" + text("a") + getattr_ + b"s",
        "in a table since a mark": b"(" + text("a") + getattr_ + b"d",
        "as a value": getattr_,
        "as a state": thing + b")\x81" + getattr_ + b"b",
        "as a factory": named("collections.defaultdict") + b"(" + getattr_ + b"tR",
        "from the memo": getattr_ + b"q\x010" + partial + b"(h\x01tR",
        "of an object's call": b"(" + named("mine.run") + getattr_ + b"o",
        "of an instance": b"(" + getattr_ + b"imine\nrun\n",
        "by an object": b"(" + getattr_ + thing + made + b"o",
        "by an instance": b"(" + thing + made + b"ibuiltins\ngetattr\n",
        "with keywords": getattr_ + b"(" + thing + made + b"t}\x92",
        "of python 2": named("__builtin__.getattr") + b"(" + thing + name + b"NtR",
        "of a number's encoding": attribute(named("builtins.bytes") + b"(K\x01tR", text("join")),
        "of a numpy scalar": attribute(named("numpy.core.multiarray.scalar") + b"(NNtR", text("tofile")),
        "of a numpy array": attribute(named("numpy.core.multiarray._reconstruct") + b")R", text("tofile")),
        "of a tensor": attribute(TENSOR, text("numpy")),
        "of torch": attribute(named("torch.nn.Module"), text("__init__.__globals__")),
        "of annotations": named("typing.get_type_hints")
        + b"("
        + (
            named("types.SimpleNamespace")
            + b")R}"
            + text("__annotations__")
            + b"}"
            + text("x")
            + text(COMMAND)
            + b"ssb"
        )
        + b"tR",
    }


def unsafe() -> dict[str, bytes]:
    """Tables that ask for code: refused with exit code 4."""
    run = f"(S'{COMMAND}'\n"
    found = {f"reduce {name}": table(item(calls(name, COMMAND))) for name in NAMES}
    found |= {
        "stack_global": table(item(stack_global("os", "system") + b"(" + text(COMMAND) + b"tR")),
        "stack_global short": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c"
        + bytes([len(COMMAND)])
        + COMMAND.encode()
        + b"\x85R.",
        "stack_global dotted": table(
            item(stack_global("torch", "serialization.os.system") + b"(" + text(COMMAND) + b"tR")
        ),
        "stack_global from the memo": table(
            item(text("os") + b"q\x05" + text("system") + b"q\x06N\x30h\x05h\x06\x93)R")
        ),
        "inst": table(item(f"(S'{COMMAND}'\nios\nsystem\n".encode())),
        "obj": table(item(b"(" + named("os.system") + text(COMMAND) + b"o")),
        "newobj": table(item(named("subprocess.Popen") + b"(" + text(COMMAND) + b"t\x81")),
        "newobj_ex": table(item(named("subprocess.Popen") + b"(" + text(COMMAND) + b"t}\x92")),
        "build": table(item(named("types.SimpleNamespace") + b")R}" + text("x") + calls("os.system", COMMAND) + b"sb")),
        "build setstate": table(item(named("torch.nn.Module") + b")\x81" + named("os.system") + b"b")),
        "named only": table(item(named("os.system"))),
        "as a key": table(calls("os.system", COMMAND) + b"N"),
        "ext1": table(item(b"\x82\x01")),
        "ext2": table(item(b"\x83\x01\x00")),
        "ext4": table(item(b"\x84\x01\x00\x00\x00")),
        "in a persistent id": table(item(calls("os.system", COMMAND) + b"Q")),
        "in a storage's name": table(
            item(b"(" + text("storage") + calls("os.system", COMMAND) + text("0") + b"NK\x02tQ")
        ),
        "in a tensor's shape": table(
            item(named("torch._utils._rebuild_tensor_v2") + calls("os.system", COMMAND) + b"R")
        ),
        "in a tensor's hooks": table(item(TENSOR[:-3] + calls("os.system", COMMAND) + b"tR")),
        "default factory": table(item(named("collections.defaultdict") + b"(" + named("os.system") + b"tR")),
        "partial": table(item(named("functools.partial") + b"(" + named("os.system") + text(COMMAND) + b"tR")),
        "getattr chain": table(
            item(
                named("builtins.getattr")
                + b"("
                + named("builtins.getattr")
                + b"("
                + named("torch.nn.Module")
                + text("__globals__")
                + b"tR"
                + text("system")
                + b"tR("
                + text(COMMAND)
                + b"tR"
            )
        ),
        "getattr of an honest class": table(
            item(named("builtins.getattr") + b"(" + named("mine.Config") + text("__class__") + b"tR")
        ),
        "rebuild_from_type": table(
            item(named("torch._tensor._rebuild_from_type_v2") + b"(" + named("os.system") + b"NtR")
        ),
        "payload first": b"\x80\x02" + calls("os.system", COMMAND) + b"0" + table()[2:],
        "payload last": table()[:-1] + calls("os.system", COMMAND) + b"0.",
        "under a mark": b"\x80\x02(" + calls("os.system", COMMAND) + b"1" + table()[2:],
        "as text": b"cos\nsystem\n(S'" + COMMAND.encode() + b"'\ntR.",
        "as old text": f"(dp0\nVa\np1\ncos\nsystem\np2\n{run}tRs.".encode(),
        "after a thousand pops": b"\x80\x02" + b"N0" * 1000 + calls("os.system", COMMAND) + b".",
        "from the memo": b"\x80\x02" + named("os.system") + b"q\x01\x30h\x01(" + text(COMMAND) + b"tR.",
        "overwritten memo": b"\x80\x02Nq\x010" + named("os.system") + b"q\x010h\x01(" + text(COMMAND) + b"tR.",
        "reduce of reduce": table(item(named("builtins.getattr") + b"(" + named("torch.hub") + text("load") + b"tR)R")),
        "a nested pickle": table(item(named("torch.storage._load_from_bytes") + b"(B\x04\x00\x00\x00\x80\x02N.tR")),
        "in a set": table(item(b"\x8f(" + calls("os.system", COMMAND) + b"\x90")),
        "in a list": table(item(b"](" + calls("os.system", COMMAND) + b"e")),
        "in a frozenset": table(item(b"(" + calls("os.system", COMMAND) + b"\x91")),
        "_metadata": table()[:-1] + b"}" + text("_metadata") + calls("os.system", COMMAND) + b"sb.",
        "copyreg of a file's class": table(item(named("copyreg._reconstructor") + b"(" + named("io.FileIO") + b"NNtR")),
        "a module's module": table(item(stack_global("os.path", "os.system"))),
    }
    return found | {f"getattr {name}": table(item(value)) for name, value in hidden_attributes().items()}


def inert() -> dict[str, bytes]:
    """Tables with other programs' objects: read, with a note of what was dropped."""
    return {
        "a callback's class": table(named("pytorch_lightning.callbacks.ModelCheckpoint") + b"N"),
        "an object with state": table(item(named("mine.Config") + b")\x81}" + text("a") + b"K\x01sb")),
        "newobj_ex": table(item(named("mine.Config") + b")}\x92")),
        "inst": table(item(b"(K\x01imine\nConfig\n")),
        "obj": table(item(b"(" + named("mine.Config") + b"K\x01o")),
        "function of another program": table(item(calls("mine.run", COMMAND))),
        "method by getattr": table(
            item(named("builtins.getattr") + b"(" + named("mine.Config") + text("make") + b"tR)R")
        ),
        "items of its own mapping": table(item(named("omegaconf.DictConfig") + b")\x81(" + text("a") + b"K\x01u")),
        "items appended": table(item(named("mine.List") + b")\x81(K\x01K\x02e")),
        "member of an enumeration by getattr": table(item(attribute(named("mine.Color"), text("RED")))),
        "getattr from the memo": table(
            item(named("builtins.getattr") + b"q\x01(" + named("mine.Color") + text("RED") + b"tR"),
            text("y") + b"h\x01(" + named("mine.Color") + text("BLUE") + b"tR",
        ),
        "method of an object by getattr": table(item(attribute(named("mine.Config") + b")\x81", text("make")))),
        "names that sound like loading": table(
            item(b"(" + b"".join(map(named, ("mine.loads.Loader", "mine.compile.Compiler", "mine.upload"))) + b"l")
        ),
        "a class with state": table(item(named("mine.Config") + b"}" + text("a") + b"K\x01sb")),
    }
