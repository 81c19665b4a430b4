"""The native kernels' shared library: found, loaded and declared as `native/convolution.h` says.

    .venv/bin/python setup.py build_ext --inplace    # builds it for the sources of a checkout; see docs/building.md

It is optional: `unavailable` says in a sentence why there is none, and PyTorch's operations serve then.
"""

import ctypes
import functools
import sys
from ctypes import POINTER, c_int, c_int32, c_int64, c_void_p
from enum import IntEnum
from pathlib import Path

import torch

from vaelens.errors import UsageError

INTERFACE_VERSION = 3  # VAELENS_INTERFACE_VERSION, which must be the library's
PATH = Path(__file__).with_name("_native.dylib" if sys.platform == "darwin" else "_native.so")
BUILD = "To build them, install GCC 11 or Clang 12 (or later), then vaelens from its sources; see docs/building.md."


class Arithmetic(IntEnum):
    """How products are made: `vaelens_arithmetic`."""

    FP32 = 0
    SPLIT_BF16 = 1
    BF16 = 2


class Instructions(IntEnum):
    """What executes them: `vaelens_instructions`."""

    PORTABLE = 0
    AVX2 = 1
    AVX512 = 2
    AMX = 3


class Activation(IntEnum):
    """What follows the normalisation: `vaelens_activation`."""

    LINEAR = 0
    SILU = 1
    RELU = 2


class Status(IntEnum):
    """What a call returns: `vaelens_status`."""

    OK = 0
    NO_MEMORY = 1
    UNSUPPORTED = 2


class Kernel(ctypes.Structure):
    """`vaelens_kernel`: what fixes the packed weights."""

    _fields_ = (
        ("arithmetic", c_int32),
        ("instructions", c_int32),
        ("in_channels", c_int32),
        ("out_channels", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("stride", c_int32),
        ("upsample", c_int32),
        ("pad_top", c_int32),
        ("pad_left", c_int32),
    )


class Strip(ctypes.Structure):
    """`vaelens_strip`: the rows to compute, and where everything lies. Pointers are addresses (`Tensor.data_ptr()`)."""

    _fields_ = (
        ("input", c_void_p),
        ("in_first", c_int64),
        ("in_rows", c_int64),
        ("in_height", c_int64),
        ("in_width", c_int64),
        ("in_stride", c_int64),
        ("mean", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("activation", c_int32),
        ("threads", c_int32),
        ("weights", c_void_p),
        ("bias", c_void_p),
        ("residual", c_void_p),
        ("output", c_void_p),
        ("out_first", c_int64),
        ("out_rows", c_int64),
        ("out_width", c_int64),
        ("moments", c_void_p),
    )


def load() -> ctypes.CDLL:
    """The library, loaded once, its functions declared. Calls give up the interpreter's lock.

    Raises UsageError, with what `unavailable` says, where there is none.
    """
    library, reason = _loaded(PATH)
    if library is None:
        raise UsageError(reason)
    return library


def unavailable() -> str | None:
    """Why the native kernels can't be used, and what to do; None where they can."""
    return _loaded(PATH)[1]


def left_out() -> str | None:
    """Why a library that can be used lacks the AMX paths; None where nothing was left out of it."""
    return None if unavailable() else _note(PATH)


@functools.cache
def _loaded(path: Path) -> tuple[ctypes.CDLL | None, str | None]:
    if sys.platform == "win32":
        return None, "There are no native kernels for Windows. PyTorch's operations serve, which are slower."
    if not path.is_file():
        why = _note(path) or f"there is no {path.name} in {path.parent}"
        return None, f"The native kernels weren't built, because {why}. {BUILD}"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"The native kernels can't be loaded, because {error}. {BUILD}"
    try:
        version = library.vaelens_interface_version()
    except AttributeError:
        version = None
    if version != INTERFACE_VERSION:
        found = "of an unknown version" if version is None else f"version {version}"
        return None, (
            f"The native kernels can't be used: the interface of {path} is {found}, and this vaelens needs version "
            f"{INTERFACE_VERSION}. {BUILD}"
        )
    _declare(library)
    library.vaelens_use_openmp(_gomp_parallel())
    return library, None


def _note(path: Path) -> str | None:
    """What setup.py wrote beside the library."""
    note = path.with_suffix(".txt")
    return note.read_text("utf-8").strip() if note.is_file() else None


def _declare(library: ctypes.CDLL) -> None:
    kernel = POINTER(Kernel)
    for name, result, arguments in (
        ("packed_bytes", c_int64, (kernel,)),
        ("pack", c_int, (kernel, c_void_p, c_int32, c_void_p)),
        ("scratch_bytes", c_int64, (kernel, c_int64, c_int64)),
        ("row_alignment", c_int32, (kernel,)),
        ("convolve", c_int, (kernel, POINTER(Strip))),
        ("instructions", c_int32, (c_int32,)),
        ("use_openmp", None, (c_void_p,)),
    ):
        function = getattr(library, f"vaelens_{name}")
        function.restype, function.argtypes = result, arguments


def _gomp_parallel() -> int | None:
    """The address of GOMP_parallel of the OpenMP library that PyTorch's operations run on; None where it has another.

    PyTorch loads that library for the whole process, so the name means to us what it means to PyTorch. Intel's and
    LLVM's libraries for Linux answer to it too.
    """
    if sys.platform != "linux" or not torch.backends.openmp.is_available():
        return None
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, c_void_p).value
    except AttributeError:
        return None
