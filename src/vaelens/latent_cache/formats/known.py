"""The trainers whose files `vaelens encode --format` writes: which latents they take, and which version was checked."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vaelens.errors import UsageError
from vaelens.json_reading import quoted

Name = Literal["sd-scripts", "ai-toolkit"]


@dataclass(frozen=True)
class Space:
    """A latent space in a trainer: its name there, and of what a square's side must be a multiple."""

    name: str
    multiple: int = 8


@dataclass(frozen=True)
class Format:
    """The files of one trainer.

    repository: on GitHub; version: which was checked, and its date
    spaces: by our name of the latent space; models: the same in words
    scaled: whether it keeps latents as the diffusion model sees them, else raw z
    turns_upright: whether it turns images by their EXIF orientation
    settings: with which it finds the files, as its users write them; {side} is the square's
    suffixes: of the images that it reads, where it names its files after theirs, else empty
    """

    name: Name
    repository: str
    version: str
    spaces: Mapping[str, Space]
    models: str
    scaled: bool
    turns_upright: bool
    settings: tuple[str, ...]
    suffixes: tuple[str, ...] = ()

    def settings_for(self, side: int) -> str:
        """Those for squares of this side, in a sentence."""
        *others, last = (one.format(side=side) for one in self.settings)
        return f"{', '.join(others)} and {last}"

    def __str__(self) -> str:
        return f"{self.name} ({self.repository.partition('/')[0]}; {self.models})"


FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format(
            "sd-scripts",
            "kohya-ss/sd-scripts",
            "v0.10.1-5-g48d368fa (2026-02-16)",
            {"sd1": Space("sd"), "sdxl": Space("sdxl")},
            "SD 1.x, 2.x and SDXL",
            scaled=False,
            turns_upright=False,
            settings=(
                "cache_latents_to_disk = true",
                "resolution = {side}",
                "enable_bucket = false",
                "flip_aug = false",
                "random_crop = false",
            ),
        ),
        Format(
            "ai-toolkit",
            "ostris/ai-toolkit",
            "0.12.26, commit 27a03a91 (2026-08-21)",
            # SD 3 and FLUX.1 take 2x2 cells of a latent at once.
            {"sd1": Space("sd1"), "sdxl": Space("sdxl"), "sd3": Space("sd3", 16), "flux1": Space("flux1", 16)},
            "SD 1.x, SDXL, SD 3.x and FLUX.1",
            scaled=True,
            turns_upright=True,
            settings=("resolution: {side}", "square_crop: true", "cache_latents_to_disk: true"),
            suffixes=(".jpg", ".jpeg", ".png", ".webp"),
        ),
    )
}


def format_named(name: str) -> Format:
    """The format of that name. Raises UsageError for another name."""
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(FORMATS)}."
        raise UsageError(f"there is no format {quoted(name)}. {hint}")
    return FORMATS[name]
