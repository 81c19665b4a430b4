"""What a file really is, by its first bytes, whatever it is called."""

from pathlib import Path

from vaelens.errors import BadInputError
from vaelens.text.paths import reason

PICKLED = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}  # suffixes of files that are pickled, or a zip with a pickle
ZIP = b"PK\x03\x04"
PICKLE_STARTS = (b"\x80", b"(", b"c", b"}", b"]")  # from the newest protocol to the oldest


def check_file(path: Path) -> tuple[bytes, int]:
    """The first 512 bytes and the size of a file that may hold tensors.

    Raises BadInputError for one that is missing, unreadable, empty or no ordinary file, and for a web page, a git-lfs
    pointer, an image and other things that get saved or named in place of a weights file.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise BadInputError(f"{path} is no ordinary file. Name a file of weights.")
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:  # a NUL byte in the path
        raise BadInputError(f"{path}: can't be read: {reason(error)}. Check the path.") from error
    text = head.lstrip().lower()
    types = (
        (size == 0, "an empty file"),
        (text.startswith((b"<!doctype html", b"<html", b"<head")), "an HTML page (a login or error page?)"),
        (head.startswith(b"version https://git-lfs"), "a git-lfs pointer (run `git lfs pull`)"),
        (head.startswith(b"GGUF"), "a GGUF file"),
        (head.startswith(b"\x89PNG"), "a PNG image"),
        (head.startswith(b"\xff\xd8\xff"), "a JPEG image"),
    )
    for is_this_type, name in types:
        if is_this_type:
            raise BadInputError(f"{path} is {name}, not a file of weights. Use the file of weights itself.")
    return head, size
