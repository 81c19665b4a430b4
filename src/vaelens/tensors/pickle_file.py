"""A pickled file of tensors (.pth, as torch saves), read by torch's restricted reader: nothing in it is run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from vaelens.errors import BadInputError, UnsafeFileError, VaelensError
from vaelens.process import without_warnings
from vaelens.resources import out_of_memory
from vaelens.tensors.file_types import check_file
from vaelens.tensors.tensor_file import TensorFile
from vaelens.text.file_kinds import PICKLE_STARTS, ZIP

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
# What the restricted reader says of something that it would have to call or build: by name, or vaguely.
CODE = re.compile(r"GLOBAL (?P<name>[\w.]+)")
LIKE_CODE = re.compile(r"reduce|Can only|Unsupported operand|TorchScript")


def open_pickle(path: Path) -> TensorFile:
    """The tensors of a state dict, mapped from the file where it is a zip, so that what nobody reads costs nothing.

    Raises UnsafeFileError for a file that holds code, which is not run; BadInputError for one that is missing, damaged
    or holds anything but named tensors; ResourceError where memory runs out.
    """
    head, _ = check_file(path)
    try:
        with (
            without_warnings,  # on files that are refused below anyway
            out_of_memory(f"{path}: not enough memory to read it. Close other programs, try again."),
        ):
            held: object = torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(ZIP))
    except VaelensError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise _explained(error, path, head) from error
    if not isinstance(held, Mapping):
        raise BadInputError(f"{path} holds a {type(held).__name__}, not a table of tensors. Name another file.")
    named = cast("Mapping[object, object]", held)
    others = [f"{name} (a {type(t).__name__})" for name, t in named.items() if not (isinstance(name, str) and _fits(t))]
    if others:
        raise BadInputError(f"{path} holds more than named, dense tensors: {', '.join(others[:4])}. Name another file.")
    tensors = cast("Mapping[str, Tensor]", named)
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    dtypes = {name: DTYPES.get(t.dtype, str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    return TensorFile(path, shapes, dtypes, {}, tensors)


def _fits(held: object) -> bool:
    return isinstance(held, Tensor) and held.layout == torch.strided and held.device.type == "cpu"


def _explained(error: Exception, path: Path, head: bytes) -> VaelensError:
    request = CODE.search(str(error))
    if request or (head.startswith((ZIP, *PICKLE_STARTS)) and LIKE_CODE.search(str(error))):
        holds = f"asks for {request['name']}, which" if request else "is damaged, or holds more than tensors, which"
        return UnsafeFileError(f"{path} {holds} could run code; nothing in it was run. Use the published file.")
    # Not torch's own advice, which is to read the file without the restriction.
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or type(error).__name__
    return BadInputError(f"{path} is damaged, or isn't a file of weights ({reason}). Download it again.")
