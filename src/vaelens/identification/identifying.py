"""`identify`: what files are, by their content. Files are sorted here by their kind: images, weights, folders."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vaelens.errors import UsageError
from vaelens.files import StrPath
from vaelens.identification.images.identified_image import identify_images
from vaelens.identification.weights.results import Identification
from vaelens.identification.weights.weight_files import weight_files
from vaelens.identification.weights.workflow import identify_weights
from vaelens.runtime import Notify, Progress, Runtime
from vaelens.text.file_kinds import HEAD, file_kind
from vaelens.text.paths import is_file, user_path
from vaelens.vae import VAE
from vaelens.weights.registry import registry


def identify(
    sources: StrPath | Sequence[StrPath],
    *,
    against: Sequence[StrPath] = (),
    vaes: Sequence[StrPath | VAE] = (),
    device: str = "auto",
    space: str | None = None,
    offline: bool = False,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Identification:
    """What files are: images, files of weights, and folders with all weights that lie in them.

    Weights are compared by their values with the known VAEs on this machine, with the other files of the call and with
    `against`: names of known VAEs (downloaded if need be, unless `offline`), files, folders or hub ids. Of an image,
    the result holds what its metadata claim about its VAE, whether that fits together, and which of the files has the
    hash claimed; with `vaes` also which of these decoders reproduces its pixels, measured on `device` (`space` is the
    latent space of a file that doesn't say it). Nothing else is downloaded. A file that can't be read is in the result
    with its error and its exit code, and stops nothing.

    Raises UsageError for no source, for `vaes` without an image, and for a latent space that isn't known; BadInputError
    for a path that isn't there or a folder without weights; and what reading `against` and `vaes`, and running these,
    raises.
    """
    named = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not named:
        raise UsageError("nothing to identify. Name images, files of weights, or a folder of these.")
    images = [source for source in named if _is_image(source)]
    others = [source for source in named if source not in images]
    if vaes and not images:
        raise UsageError("--vae: no effect without an image. Name an image, or compare weights with --against.")
    if against and not others:
        raise UsageError("--against: no effect on images. Name decoders for them with --vae.")
    if space is not None:
        registry().check_space(space)
    runtime = Runtime.of(device=device, offline=offline, notify=notify, progress=progress)
    files = weight_files(others, runtime.notify) if others else []
    seen = identify_images([user_path(image) for image in images], vaes, runtime, space=space)
    found = identify_weights(files, against, runtime.on("cpu")) if files else Identification((), ())
    return replace(found, images=tuple(image.with_files(_contents(found)) for image in seen))


def _contents(found: Identification) -> list[tuple[str, str, str]]:
    """The sha256, the path and what it is of each file of weights that could be hashed."""
    return [
        (file.examined.sha256, str(file.path), file.vae or file.what) for file in found.files if file.examined.sha256
    ]


def _is_image(source: StrPath) -> bool:
    if not is_file(os.fspath(user_path(source))):
        return False
    try:
        with Path(user_path(source)).open("rb") as file:
            kind = file_kind(file.read(HEAD))
    except OSError:
        return False
    return kind is not None and kind.use in {"image", "unread image"}
