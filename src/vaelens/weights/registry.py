"""The registry: `vaes.toml`, checked and typed. To add a VAE is one table there."""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, model_validator

from vaelens.errors import UsageError
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.weights.spec import NetworkConfig, VAESpec

KL_PIXELS = (-1.0, 1.0)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LatentSpace(_Table):
    """A family of VAEs that can replace one another behind the same diffusion models."""

    behind: str
    model: str | None = None  # what generates where only VAEs of the space are named
    compared: tuple[str, ...] = ()  # the VAEs that `compare` takes where none is named
    config: str | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None
    checkpoint_keys: tuple[str, ...] = ()


class PublishedFile(_Table):
    """One file of weights: name in its repository; size in bytes and sha256 where known."""

    name: str
    size: int | None = None
    sha256: str | None = None


class Training(_Table):
    """What is published about a VAE's training."""

    steps: int | None = None
    loss: str | None = None
    part: Literal["all", "decoder"] | None = None
    resumed_from: str | None = None
    note: str | None = None


class Score(_Table):
    """Published scores on one set of images; `_std` is the spread over images, not an error."""

    set: str
    images: int
    rfid: float
    psnr: float
    psnr_std: float
    ssim: float
    ssim_std: float
    psim: float
    psim_std: float


class Entry(_Table):
    """One known VAE. Its files lie on the hub (repo, revision, files) or in the package (embedded)."""

    title: str
    space: str
    licence: str
    config: str | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None
    pixel_range: tuple[float, float] = KL_PIXELS
    repo: str | None = None
    revision: str = "main"
    files: tuple[PublishedFile, ...] = ()
    also: tuple[PublishedFile, ...] = ()
    embedded: tuple[str, ...] = ()
    training: Training = Training()
    scores: tuple[Score, ...] = ()

    @model_validator(mode="after")
    def _has_one_source(self) -> "Entry":
        if bool(self.embedded) == bool(self.repo) or bool(self.repo) != bool(self.files):
            raise ValueError("an entry is either embedded or has a repo with files")
        return self


class DiffusionModel(_Table):
    """One diffusion model known by name. It lies on the hub (repo) or in the package (embedded: a folder's name).

    An embedded one names its VAE, says how many steps and how much guidance it wants, and what its prompts are.
    """

    title: str
    space: str
    licence: str
    repo: str | None = None
    embedded: str | None = None
    vae: str = ""
    steps: int = 0
    guidance: float = 0.0
    prompts: Literal["scenes"] | None = None


class Registry(_Table):
    """All of `vaes.toml` and `models.toml`."""

    configs: dict[str, dict[str, Any]]
    spaces: dict[str, LatentSpace]
    vaes: dict[str, Entry]
    models: dict[str, DiffusionModel]

    def find(self, name: str) -> Entry:
        """The entry of that name (case doesn't matter); UsageError with the nearest names otherwise."""
        entry = self.vaes.get(name.lower())
        if entry is None:
            near = difflib.get_close_matches(name.lower(), self.vaes, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(self.vaes)}."
            raise UsageError(f"no VAE is called {name!r}, and no file or folder of that name exists. {hint}")
        return entry

    def find_model(self, name: str) -> DiffusionModel:
        """The diffusion model of that name; UsageError with the nearest names otherwise."""
        model = self.models.get(name.lower())
        if model is None:
            near = difflib.get_close_matches(name.lower(), self.models, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {self.model_names()}."
            raise UsageError(f"no model is called {name!r}, and no file or folder of that name exists. {hint}")
        return model

    def model_names(self) -> str:
        """The known models, listed."""
        return ", ".join(self.models)

    def embedded_model(self) -> str:
        """The name of the model that ships with vaelens: what generates where neither model nor VAE is named."""
        return next(name for name, model in self.models.items() if model.embedded)

    def spec(self, name: str) -> VAESpec:
        """The complete spec of a known VAE, from the registry alone."""
        entry = self.find(name)
        space = self.spaces[entry.space]
        scale = space.scaling_factor if entry.scaling_factor is None else entry.scaling_factor
        shift = space.shift_factor if entry.shift_factor is None else entry.shift_factor
        config = entry.config or space.config
        if scale is None or shift is None or config is None:
            raise ValueError(f"vaes.toml: {name} and its space don't settle config, scale and shift")
        return VAESpec(self.network_config(config), entry.space, scale, shift, entry.pixel_range)

    def space_spec(self, space: str) -> VAESpec:
        """The spec of a full VAE of a latent space; UsageError for a space that isn't known or has none."""
        found = self.spaces.get(space)
        if found is None or found.config is None or found.scaling_factor is None or found.shift_factor is None:
            known = [name for name, s in self.spaces.items() if s.config]
            raise UsageError(f"no latent space is called {space!r} here. Known: {', '.join(known)}.")
        config = self.network_config(found.config)
        return VAESpec(config, space, found.scaling_factor, found.shift_factor, KL_PIXELS)

    def check_space(self, space: str) -> None:
        """Raises UsageError for a latent space that isn't known."""
        if space not in self.spaces:
            raise UsageError(f"no latent space is called {space!r}. Known: {', '.join(self.spaces)}.")

    def space_of(self, channels: int, factor: int, scale: float, shift: float) -> str | None:
        """The latent space with these numbers, for a full VAE; None if no known one has them."""
        for name, space in self.spaces.items():
            if space.config is None:
                continue
            config = self.network_config(space.config)
            numbers = (config.latent_channels, config.factor, space.scaling_factor, space.shift_factor)
            if numbers == (channels, factor, scale, shift):
                return name
        return None

    def by_sha256(self, digest: str) -> str | None:
        """The name of the VAE published in a file with this sha256."""
        for name, entry in self.vaes.items():
            if any(file.sha256 == digest for file in (*entry.files, *entry.also)):
                return name
        return None

    def embedded(self) -> list[str]:
        """The names of the VAEs that ship with vaelens: what serves where none is named."""
        return [name for name, entry in self.vaes.items() if entry.embedded]

    def network_config(self, name: str) -> NetworkConfig:
        """A network's config by its name in the registry."""
        values = dict(self.configs[name])
        kind = {"kl": AutoencoderKLConfig, "tiny": TinyAutoencoderConfig}[values.pop("kind")]
        return kind(**frozen(values))


@cache
def registry() -> Registry:
    """The registry that ships with vaelens, read once."""
    texts = [files("vaelens.weights").joinpath(name).read_text("utf-8") for name in ("vaes.toml", "models.toml")]
    return Registry.model_validate({key: value for text in texts for key, value in tomllib.loads(text).items()})


def embedded_paths(entry: Entry) -> list[Path]:
    """Where an embedded VAE's files lie in the installed package; those that share an encoder share its file."""
    return [Path(str(files("vaelens.weights").joinpath("embedded", name))) for name in entry.embedded]


def embedded_model_path(model: DiffusionModel) -> Path:
    """Where the embedded model's folder lies in the installed package."""
    assert model.embedded is not None
    return Path(str(files("vaelens.weights").joinpath("embedded", model.embedded)))


def frozen(values: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's and JSON's lists as tuples, as configs have them."""
    return {k: tuple(cast(list[Any], v)) if isinstance(v, list) else v for k, v in values.items()}


def config_values(config: NetworkConfig) -> dict[str, Any]:
    """A config as plain values, as they stand in metadata and messages."""
    return dataclasses.asdict(config)
