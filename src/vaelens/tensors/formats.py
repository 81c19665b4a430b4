"""A file of tensors of any format, by its content, whatever its name: safetensors, an index of several, a pickle."""

from pathlib import Path

from vaelens.tensors.file_types import PICKLED, check_file
from vaelens.tensors.pickles.opening import open_pickle
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.tensors.sharded import is_index, open_index
from vaelens.tensors.tensor_file import TensorFile
from vaelens.text.file_kinds import ARCHIVE, PICKLE_STARTS, TEXT, file_kind


def open_tensors(path: Path) -> TensorFile:
    """The file's names, shapes and dtypes, checked; its tensors are read later.

    A safetensors file named .ckpt opens, and so does a pickled one named .safetensors. Raises as the format's own
    reader does: BadInputError for a file that is missing, damaged or something else (which is named), UnsafeFileError
    for a pickle that asks for code.
    """
    if is_index(path.name):
        return open_index(path)
    head, _ = check_file(path)
    kind = file_kind(head)
    is_pickled = kind is not None and (kind.use == "pickle" or kind is ARCHIVE)
    if kind in {None, TEXT}:  # the oldest protocol is text
        is_pickled = path.suffix.lower() in PICKLED and head.startswith(PICKLE_STARTS)
    return (open_pickle if is_pickled else open_safetensors)(path)
