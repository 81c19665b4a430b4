"""What each name in a pickle becomes: something known, which builds data; a placeholder; or a reason to refuse it.

The rule. No name is ever imported, so nothing runs whatever this module says: it only decides what the user is told.

- Names that build tensors and plain data are known: the table in `constructors.py`.
- Of Python's standard library, torch and numpy, which whoever loads a checkpoint has, what checkpoints hold is listed
  (`STANDARD`, `OF_TORCH`, `OF_NUMPY`); any other name is refused: an honest checkpoint has no use for `os.system`.
- Of other libraries, names that run, load, import or fetch code are refused, by library (`RUNS_CODE`), by what such
  functions are called (`LOADS_BY_TEXT`), and where a part leads to either from elsewhere (`LEADS_TO_CODE`).
- All other names are classes and functions of other programs, as the callbacks and configurations that training
  programs save. They become placeholders, and so does whatever is made with them; the user is told their names.
- `getattr` makes names out of others, which are judged likewise. So it may only be called, with a name that is written
  in the file (`Machine._attribute`).
"""

import re
import sys

from vaelens.tensors.pickles.constructors import KNOWN
from vaelens.tensors.pickles.refusals import UnsafePickleError, WrongPickleError
from vaelens.tensors.pickles.values import DType, Getattr, Inert, Known

LONGEST_NAME = 300  # characters
NO_NAME = "a name in it can't be one of Python's"
# What checkpoints hold of three libraries, each name in full. What a call of them gives is a placeholder too.
STANDARD = re.compile(
    r"(?:"
    r"datetime\.(?:datetime|date|time|timedelta|timezone)|decimal\.Decimal|fractions\.Fraction|uuid\.(?:UUID|SafeUUID)"
    r"|pathlib\.(?:_local\.)?(?:Pure)?(?:Posix|Windows)?Path|argparse\.Namespace|types\.SimpleNamespace"
    r"|collections\.(?:OrderedDict|defaultdict|Counter|deque|ChainMap|UserDict|UserList|UserString)"
    r"|collections\.(?:abc\.)?(?:(?:Mutable)?(?:Mapping|Sequence|Set)|Iterable|Iterator|Callable|Hashable|Collection)"
    r"|typing\.(?:Any|Union|Optional|Dict|List|Tuple|Set|FrozenSet|(?:Mutable)?(?:Mapping|Sequence)|Iterable|Callable"
    r"|Type|Literal)"
    r"|enum\.(?:(?:Int|Str)?Enum|(?:Int)?Flag)|numbers\.(?:Number|Complex|Real|Rational|Integral)|functools\.partial"
    r"|copyreg\.(?:_reconstructor|__newobj__|__newobj_ex__)|re\._compile|logging\.getLogger|random\.Random"
    r"|inspect\._empty|dataclasses\._HAS_DEFAULT_FACTORY_CLASS|builtins\.(?:type|object|int|float|complex|bool|str"
    r"|bytes|bytearray|list|tuple|dict|set|frozenset|slice|range|Ellipsis|NotImplemented|NoneType"
    r"|\w+(?:Error|Exception|Warning)|unicode|long|xrange)"
    r")"
)
OF_TORCH = re.compile(
    r"torch\.(?:"
    r"Generator|Stream|Event|\w+Tensor|dtype|layout|memory_format|finfo|iinfo|torch_version\.TorchVersion|_utils\._rebuild_\w+"
    r"|_C\.(?:Generator|_nn\.\w+|_VariableFunctionsClass(?:\.(?!from_file)\w+)?)|nn\.(?:functional|init)\.\w+"
    r"|(?:cuda\.)?amp\.grad_scaler\._refresh_per_optimizer_state|utils\.data\._utils\.collate\.default_\w+"
    # Classes and their methods, as of a whole network, an optimizer or a sampler.
    r"|(?:nn|optim|distributions|autograd|amp|cuda|ao|quantization|utils\.(?:data(?!\.datapipes\b)|hooks)"
    r"|distributed\.(?:fsdp|_?tensor|_shard|device_mesh|optim|algorithms))(?:\.[a-z_]\w*)*\._?[A-Z]\w*(?:\.\w+)*"
    r")"
)
OF_NUMPY = re.compile(
    r"numpy\.(?:"
    r"ndarray|matrix|recarray|record|generic|dtype|void|(?:u?int|float|complex|bool|str|bytes|object|datetime|timedelta)"
    r"\d*_?|longlong|longdouble|dtypes\.[A-Z]\w*|rec\.rec(?:array|ord)|ma\.(?:core\.)?(?:MaskedArray|MaskedConstant|_mareconstruct)"
    r"|_?core\.(?:multiarray\.(?:_reconstruct|scalar)|numeric\._frombuffer|records\.(?:recarray|record))"
    r"|random\.(?:\w+\.)?(?:__\w+_ctor|__pyx_unpickle_\w+|[A-Z]\w*)"
    r"|mean|median|sum|prod|a?min|a?max|argmin|argmax|std|var|abs|absolute|add|subtract|multiply|divide|maximum|minimum"
    r"|exp|log\d*\w?|sqrt|square|sin|cos|tanh|clip"
    r")"
)
# Parts of torch's names that aren't its own, but what its modules import.
IMPORTED = (sys.stdlib_module_names | {"torch", "numpy", "np", "F", "grad", "_C", "_VF", "_Reduction"}) - {"random"}
# Of other libraries: names, or beginnings of them, that run, load, compile or fetch something; torch's, numpy's and
# pandas' also inside names, as these are imported everywhere.
RUNS_CODE = re.compile(
    r"(?:(?:.+\.)?(?:torch\.(?:hub|load|jit|package|serialization|storage|compile|fx|ops|classes|library|export|onnx"
    r"|testing|multiprocessing|from_file|_\w+|distributed\.(?:rpc|elastic|launcher?|run)"
    r"|utils\.(?:cpp_extension|model_zoo|collect_env|bottleneck|benchmark|_\w+|data\.datapipes))"
    r"|(?:numpy|np)\.(?:load\w*|from\w+|memmap|genfromtxt|save\w*|f2py|distutils|testing|ctypeslib|lib)"
    r"|(?:pandas|pd)\.(?:(?:\w+\.)*(?:read_\w+|to_\w+|eval|query|pipe)|io|core\.computation))"
    r"|pip|setuptools|pkg_resources|_distutils_hack|wheel|IPython|ipykernel|dill|cloudpickle|joblib|cffi|numba|sympy"
    r"|yaml|jinja2|mako|requests|httpx|urllib3|aiohttp|paramiko|fabric|invoke|pexpect|ptyprocess|psutil|sh|win32\w*"
    r"|pythoncom|tensorflow|keras|huggingface_hub|fire|click|typer|fsspec|smart_open|hydra|hydra_zen|six|jsonpickle"
    r"|asteval|simpleeval|numexpr|execnet|pytest|_pytest|werkzeug|django|celery|kombu|traitlets|triton|Cython"
    r"|pyximport|cppyy|gdown|wget|docker)(?:\.|$)"
)
# What functions and classes are called that import, load, evaluate or start what a text says: the last part of a name.
LOADS_BY_TEXT = re.compile(
    r"_*(?:import(?:_\w+|string)?|\w+_import|(?:\w+_)?loads?|load_(?:from_|module|class|obj|pickle|url|library|state_dict_from"
    r"|checkpoint|model|pretrained)\w*|from_?file|from_pretrained|read_g?pickle|unpickle|instantiate(?:_\w+)?|locate"
    r"|get_(?:class|obj|object|method|module|callable)(?:_\w+)?|resolve_(?:name|types?)|symbol_by_name|ref_to_obj"
    r"|get_(?:type_hints?|annotations)|evaluate_forward_\w+|(?:\w+_)?eval(?:_(?:str|string|expr|code|source))?"
    r"|exec(?:_\w*)?|execute(?:_\w+)?|run_?(?:command|cmd|shell|script|code|string|source|path|module|process)"
    r"|compile(?:_\w+)?|popen|shell|subprocess(?:_\w+)?|check_call|attrgetter|methodcaller|download(?:_\w+)?|urlopen"
    r"|register_new_resolver|Lazy(?:Module|Import|Loader|Config)|RequirementCache|ModuleAvailableCache|PyObject"
    r"|ImportString)_*"
)
# Parts of a dotted name by which a module's namespace, or a function behind it, can be reached from elsewhere.
LEADS_TO_CODE = {
    "os", "sys", "subprocess", "builtins", "bltns", "__builtin__", "__builtins__", "importlib", "posix", "nt", "shutil",
    "pty", "socket", "runpy", "ctypes", "marshal", "pickle", "_pickle", "cPickle", "code", "codeop", "__import__",
    "_sys", "_os", "timeit", "multiprocessing", "urllib", "tempfile", "webbrowser", "pydoc", "zipimport", "pkgutil",
    "__globals__", "__subclasses__", "__loader__", "__spec__", "__code__", "__class__", "__bases__", "__base__",
    "__mro__", "__dict__", "__getattribute__", "__getattr__", "__setattr__", "__reduce__", "__reduce_ex__", "__call__",
    "__self__", "__func__", "__wrapped__", "__closure__", "eval", "exec", "execfile", "system", "popen", "spawn",
    "run_path", "run_module", "load_module", "import_module", "check_output", "Popen",
}  # fmt: skip
# Known to be without effect, and of no interest to a user.
QUIET = re.compile(
    r"torch\.(?:_tensor\.)?Tensor|torch\.device|torch\.strided|torch\.sparse_\w+|torch\.\w*(?:affine|symmetric)\w*"
    r"|torch\.serialization\._get_layout|builtins\.\w+|copyreg\._reconstructor"
    r"|torch\.(?:_utils\.torch\.)?(?:contiguous_format|preserve_format|channels_last(?:_3d)?)"
)
OF_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections", "exceptions": "builtins"}
STORAGES = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexDouble": "C128", "ComplexFloat": "C64", "QInt8": "QINT8",
    "QUInt8": "QUINT8", "QInt32": "QINT32", "QUInt4x2": "QUINT4X2", "QUInt2x4": "QUINT2X4", "Untyped": None,
}  # fmt: skip
DTYPES = {
    "float64": "F64", "double": "F64", "float32": "F32", "float": "F32", "float16": "F16", "half": "F16",
    "bfloat16": "BF16", "int64": "I64", "long": "I64", "int32": "I32", "int": "I32", "int16": "I16", "short": "I16",
    "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0", "complex32": "C32", "complex64": "C64",
    "complex128": "C128", "qint8": "QINT8", "quint8": "QUINT8", "qint32": "QINT32",
}  # fmt: skip
IN_TORCH = re.compile(r"torch\.(?:(?:cuda|storage|cuda\.sparse|sparse)\.)?(?:(?P<storage>\w+)Storage|(?P<dtype>\w+))")


def resolve(module: str, name: str, met: dict[str, None]) -> Known | DType | Getattr | Inert:
    """What a name becomes; one of a placeholder is noted in `met`. Raises UnsafePickleError, and WrongPickleError."""
    module = OF_PYTHON_2.get(module, module)
    full = f"{module}.{name}"
    if not module or not name:
        raise WrongPickleError(NO_NAME)
    if (known := KNOWN.get(full)) is not None:
        return known
    if (dtype := _dtype(full)) is not None:
        return dtype
    return Getattr() if full == Getattr.name else placeholder(full, met)


def placeholder(name: str, met: dict[str, None]) -> Inert:
    """What stands for something that isn't known, noted in `met`. Raises UnsafePickleError, and WrongPickleError."""
    if len(name) > LONGEST_NAME or not name.isprintable():  # it is shown
        raise WrongPickleError(NO_NAME)
    if _is_refused(name):
        raise UnsafePickleError(f"asks for {name}")
    if QUIET.fullmatch(name) is None:
        met[name] = None
    return Inert(name)


def _is_refused(name: str) -> bool:
    first, *others = name.split(".")
    if first in sys.stdlib_module_names:
        return STANDARD.fullmatch(name) is None
    if first == "numpy":
        return OF_NUMPY.fullmatch(name) is None
    if QUIET.fullmatch(name):
        return False
    if first in LEADS_TO_CODE or not LEADS_TO_CODE.isdisjoint(others):
        return True
    if first == "torch":
        return OF_TORCH.fullmatch(name) is None or not IMPORTED.isdisjoint(others[1:])
    return RUNS_CODE.match(name) is not None or LOADS_BY_TEXT.fullmatch(others[-1]) is not None


def _dtype(full: str) -> DType | None:
    found = IN_TORCH.fullmatch(full)
    if found is None:
        return None
    if found["storage"] is not None:
        return DType(STORAGES[found["storage"]]) if found["storage"] in STORAGES else None
    return DType(DTYPES[found["dtype"]]) if found["dtype"] in DTYPES and full.count(".") == 1 else None
