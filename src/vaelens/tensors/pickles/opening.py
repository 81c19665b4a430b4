"""A pickled file of tensors, opened: .ckpt, .pt, .pth, .bin, in PyTorch's zip and legacy formats. Nothing in it is run.

    source -> machine (opcodes, `machine.py`) -> values (`values.py`) -> one table of tensors (`state_tables.py`)

The tensors' numbers stay in the file until they are read, `mapped_tensors.py`.
"""

import mmap
from pathlib import Path

from vaelens.errors import BadInputError, UnsafeFileError
from vaelens.tensors.file_types import check_file
from vaelens.tensors.pickles.budget import Budget
from vaelens.tensors.pickles.pickled_bytes import read_pickled
from vaelens.tensors.pickles.refusals import UnsafePickleError, WrongPickleError
from vaelens.tensors.tensor_file import TensorFile
from vaelens.text.file_kinds import ZIP
from vaelens.text.paths import unreadable


def open_pickle(path: Path) -> TensorFile:
    """The tensors that a pickled file describes, none read yet; what it holds beside them is in `dropped`.

    Memory grows by less than 1.2 times the file's size plus 50 MB, whatever the file says. Raises UnsafeFileError for a
    file that asks for something that could run code (`named_globals.py` has the rule); BadInputError for one that is
    missing, damaged, incomplete or holds no table of tensors.
    """
    head, size = check_file(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            tensors, dropped = read_pickled(mapped, Budget(size), is_zip=head.startswith(ZIP))
    except UnsafePickleError as error:
        raise UnsafeFileError(
            f"{path} {error}, which could run code; nothing in it was run. Use the published file, or a .safetensors "
            "file of the same weights."
        ) from error
    except WrongPickleError as error:
        raise BadInputError(
            f"{path} isn't a file of weights that vaelens reads: {error}. Download it again, or name another file."
        ) from error
    except (OSError, ValueError) as error:  # it shrank to nothing
        raise unreadable(path, error) from error
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    return TensorFile(path, shapes, dtypes, {}, pickled=tensors, dropped=dropped)
