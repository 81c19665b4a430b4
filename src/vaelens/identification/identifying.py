"""`identify`: what files are, by their content. Files are sorted here by their kind: weights, and folders of them."""

import os
from collections.abc import Sequence
from pathlib import Path

from vaelens.errors import BadInputError, UsageError
from vaelens.files import StrPath
from vaelens.identification.weights.results import Identification
from vaelens.identification.weights.weight_files import weight_files
from vaelens.identification.weights.workflow import identify_weights
from vaelens.runtime import Notify, Progress, Runtime
from vaelens.text.file_kinds import HEAD, file_kind
from vaelens.text.paths import is_file, user_path


def identify(
    sources: StrPath | Sequence[StrPath],
    *,
    against: Sequence[StrPath] = (),
    offline: bool = False,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Identification:
    """What files of weights are: files, and folders with all that lies in them.

    Each is compared by its values with the known VAEs on this machine, with the other files of the call and with
    `against`: names of known VAEs (downloaded if need be, unless `offline`), files, folders or hub ids. Nothing else is
    downloaded. A file that can't be read is in the result with its error and its exit code, and stops nothing.

    Raises UsageError for no source, BadInputError for a path that isn't there, an image, or a folder without weights;
    and what reading `against` raises.
    """
    named = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not named:
        raise UsageError("nothing to identify. Name files of weights, or a folder of them.")
    for source in named:
        if _is_image(source):
            raise BadInputError(f"{source} is an image; vaelens identifies files of weights. Name one, or a folder.")
    runtime = Runtime.of(device="cpu", offline=offline, notify=notify, progress=progress)
    return identify_weights(weight_files(named), against, runtime)


def _is_image(source: StrPath) -> bool:
    if not is_file(os.fspath(user_path(source))):
        return False
    try:
        with Path(user_path(source)).open("rb") as file:
            kind = file_kind(file.read(HEAD))
    except OSError:
        return False
    return kind is not None and kind.use in {"image", "unread image"}
