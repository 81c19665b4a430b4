"""A model's stored variants: which of its files are needed, and whether its weights are taken in half precision."""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from vaelens.download.hub import RemoteFile
from vaelens.errors import BadInputError, UnsafeFileError
from vaelens.tensors.file_types import PICKLED

SMALL = {".json", ".txt", ".model"}
HALF = re.compile(r"\.(fp16|bf16)[.-]")
VARIANTS = (None, "fp16", "bf16")


def _weights(files: Sequence[str] | Mapping[str, Any], component: str) -> list[str]:
    return [n for n in files if n.startswith(f"{component}/") and PurePosixPath(n).suffix in {".safetensors", *PICKLED}]


def _variant(name: str) -> str | None:
    """That of a file of weights, also of a shard; None for the plain one."""
    found = HALF.search(PurePosixPath(name).name)
    return found[1] if found else None


def variant_of(files: Mapping[str, Any], components: Iterable[str], half: bool, where: str) -> str | None:
    """ "fp16" or "bf16" where `half` asks for it and all parts have it, or where nothing else exists; else None.

    Raises UnsafeFileError for a part with pickled weights only, BadInputError where no set of weights is complete.
    """
    complete: set[str | None] = set(VARIANTS)
    for component in components:
        weights = _weights(files, component)
        safe = [n for n in weights if n.endswith(".safetensors")]
        if weights and not safe:
            raise UnsafeFileError(
                f"{where}: {component} has only pickled weights ({PurePosixPath(weights[0]).name}), which may run any "
                "code when they are read. Name a model published as .safetensors."
            )
        named = [n for n in safe if PurePosixPath(n).name.startswith(("model.", "model-", "diffusion_pytorch_model"))]
        if safe:
            there = {_variant(n) for n in named if ".non_ema" not in n}
            complete &= there
    if not complete:
        raise BadInputError(f"{where} has no complete set of weights in diffusers' layout. Name another model.")
    preferred = ("fp16", "bf16", None) if half else VARIANTS
    return next(variant for variant in preferred if variant in complete)


def files_needed(files: Mapping[str, RemoteFile], components: Container[str], variant: str | None) -> list[str]:
    """The files of these components: all small ones, and the weights of the variant alone."""
    needed: list[str] = []
    for name in files:
        component, _, rest = name.partition("/")
        path = PurePosixPath(rest)
        if component not in components or not rest or "/" in rest:
            continue
        if path.suffix in SMALL and not path.name.startswith(("flax", "openvino")):
            needed.append(name)
        elif path.suffix == ".safetensors" and path.name.startswith(("model", "diffusion_pytorch_model")):
            needed += [name] if _variant(name) == variant and ".non_ema" not in name else []
    return needed
