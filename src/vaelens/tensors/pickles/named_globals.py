"""What each name in a pickle becomes: something known, which builds data; a placeholder; or a reason to refuse it.

The rule. No name is ever imported, so nothing runs whatever this module says: it only decides what the user is told.

- Names that build tensors and plain data are known: the table in `constructors.py`.
- Names of Python's standard library are refused, except for types that hold data (`DATA_TYPES`): an honest checkpoint
  has no use for `os.system`. So are functions of other libraries that run, load or fetch code (`RUNS_CODE`), and names
  that lead to either (`LEADS_TO_CODE`), wherever they stand.
- All other names are classes and functions of other programs, as the callbacks and configurations that training
  programs save. They become placeholders, and so does whatever is made with them; the user is told their names.
"""

import re
import sys

from vaelens.tensors.pickles.constructors import KNOWN
from vaelens.tensors.pickles.refusals import UnsafePickleError, WrongPickleError
from vaelens.tensors.pickles.values import DType, Inert, Known

LONGEST_NAME = 300  # characters
NO_NAME = "a name in it can't be one of Python's"
# Types of the standard library that hold data. What a call of them gives is a placeholder too.
DATA_TYPES = re.compile(
    r"(?:"
    r"datetime\.(?:datetime|date|time|timedelta|timezone)|decimal\.Decimal|fractions\.Fraction|uuid\.(?:UUID|SafeUUID)"
    r"|pathlib\.(?:_local\.)?(?:Pure)?(?:Posix|Windows)?Path|argparse\.Namespace|types\.SimpleNamespace"
    r"|collections\.(?:abc\.)?\w+|typing\.\w+|enum\.\w+|functools\.partial|copyreg\.\w+|re\._compile|logging\.getLogger"
    r"|random\.Random|numbers\.\w+|inspect\._empty|dataclasses\._HAS_DEFAULT_FACTORY_CLASS|builtins\.(?:type|object"
    r"|int|float|complex|bool|str|bytes|bytearray|list|tuple|dict|set|frozenset|slice|range|getattr|Ellipsis"
    r"|NotImplemented|NoneType|\w+(?:Error|Exception|Warning)|unicode|long)"
    r")"
)
# Of other libraries: names, or beginnings of them, that run, load, compile or fetch something.
RUNS_CODE = re.compile(
    r"(?:torch\.(?:hub|load|jit|package|serialization|storage\._load_from_bytes|compile|fx|ops|classes|library|export"
    r"|testing|multiprocessing|_inductor|_dynamo|_functorch|_export|_C|distributed\.(?:rpc|elastic|launcher?|run)"
    r"|utils\.(?:cpp_extension|model_zoo|collect_env|bottleneck|_\w+|data\.datapipes))"
    r"|numpy\.(?:load|fromfile|memmap|f2py|distutils|testing|ctypeslib|lib)"
    r"|pandas\.(?:read_\w+|eval|io|core\.computation)"
    r"|pip|setuptools|pkg_resources|_distutils_hack|wheel|IPython|ipykernel|dill|cloudpickle|joblib|cffi|numba|sympy"
    r"|yaml|jinja2|mako|requests|httpx|urllib3|aiohttp|paramiko|fabric|invoke|pexpect|ptyprocess|psutil|sh|win32\w*"
    r"|pythoncom|tensorflow|keras|huggingface_hub|fire|click|typer)(?:\.|$)"
)
# Parts of a dotted name by which a module's namespace, or a function behind it, can be reached from elsewhere.
LEADS_TO_CODE = {
    "os", "sys", "subprocess", "builtins", "__builtin__", "__builtins__", "importlib", "posix", "nt", "shutil", "pty",
    "socket", "runpy", "ctypes", "marshal", "pickle", "_pickle", "cPickle", "code", "codeop", "__import__",
    "__globals__", "__subclasses__", "__loader__", "__spec__", "__code__", "__class__", "__bases__", "__mro__",
    "__dict__", "__getattribute__", "__reduce__", "__reduce_ex__", "eval", "exec", "execfile", "system", "popen",
    "spawn", "run_path", "run_module", "load_module", "import_module", "check_output", "Popen",
}  # fmt: skip
# Known to be without effect, and of no interest to a user.
QUIET = re.compile(
    r"torch\.(?:_tensor\.)?Tensor|torch\.device|torch\.strided|torch\.sparse_\w+|torch\.\w*(?:affine|symmetric)\w*"
    r"|torch\.serialization\._get_layout|builtins\.\w+|copyreg\._reconstructor|torch\.(?:contiguous|preserve)_format"
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


def resolve(module: str, name: str, met: dict[str, None]) -> Known | DType | Inert:
    """What a name becomes; one of a placeholder is noted in `met`. Raises UnsafePickleError, and WrongPickleError."""
    module = OF_PYTHON_2.get(module, module)
    full = f"{module}.{name}"
    if not module or not name:
        raise WrongPickleError(NO_NAME)
    if (known := KNOWN.get(full)) is not None:
        return known
    if (dtype := _dtype(full)) is not None:
        return dtype
    return placeholder(full, met)


def placeholder(name: str, met: dict[str, None]) -> Inert:
    """What stands for something that isn't known, noted in `met`. Raises UnsafePickleError, and WrongPickleError."""
    if len(name) > LONGEST_NAME or not name.isprintable():  # it is shown
        raise WrongPickleError(NO_NAME)
    if QUIET.fullmatch(name) and not _is_refused(name):
        return Inert(name)
    if _is_refused(name):
        raise UnsafePickleError(f"asks for {name}")
    met[name] = None
    return Inert(name)


def _is_refused(name: str) -> bool:
    first, *others = name.split(".")
    if first in sys.stdlib_module_names or first in LEADS_TO_CODE:
        return DATA_TYPES.fullmatch(name) is None
    if QUIET.fullmatch(name):
        return False
    return RUNS_CODE.match(name) is not None or not LEADS_TO_CODE.isdisjoint(others)


def _dtype(full: str) -> DType | None:
    found = IN_TORCH.fullmatch(full)
    if found is None:
        return None
    if found["storage"] is not None:
        return DType(STORAGES[found["storage"]]) if found["storage"] in STORAGES else None
    return DType(DTYPES[found["dtype"]]) if found["dtype"] in DTYPES and full.count(".") == 1 else None
