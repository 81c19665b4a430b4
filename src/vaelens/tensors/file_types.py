"""Files that may hold tensors: whether they can, by what they are called and by what they really are."""

from pathlib import Path

from vaelens.errors import BadInputError
from vaelens.text.file_kinds import ARCHIVE, HEAD, TEXT, file_kind
from vaelens.text.paths import lost_target, unreadable

PICKLED = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}  # suffixes of files that are pickled, or a zip with a pickle


def check_file(path: Path) -> tuple[bytes, int]:
    """The first HEAD bytes and the size of a file that may hold tensors.

    Raises BadInputError for one that is missing, unreadable, empty or not an ordinary file, and for a web page, a
    git-lfs pointer, an image and other things that get saved or named in place of a weights file.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise BadInputError(f"{path} is a folder, not a file of weights. Name a file in it.")
        if not path.is_file():
            raise BadInputError(f"{path} isn't an ordinary file. Name a file of weights.")
        with path.open("rb") as file:
            head = file.read(HEAD)
    except (OSError, ValueError) as error:  # a NUL byte in the path
        if (target := lost_target(path)) is not None:
            raise BadInputError(
                f"{path} is a link to {target}, which isn't there. Repair it, or name a file."
            ) from error
        raise unreadable(path, error) from error
    kind = file_kind(head)
    if kind is not None and kind.use not in {"weights", "latents", "pickle"} and kind not in {TEXT, ARCHIVE}:
        raise BadInputError(kind.instead_of_weights(path))
    return head, size
