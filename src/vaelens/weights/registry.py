"""The registry: `vaes.toml`, checked and typed. To add a VAE is one table there."""

import difflib
import tomllib
from collections.abc import Hashable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, model_validator

from vaelens.errors import UsageError
from vaelens.families.discovery import families
from vaelens.families.family import Family
from vaelens.families.spec import NetworkConfig, VAESpec, config_values


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LatentSpace(_Table):
    """A set of VAEs that can replace one another, because the same diffusion models make their latents."""

    used_by: str
    model: str | None = None  # what generates where only VAEs of the space are named
    default_vaes: tuple[str, ...] = ()  # what `compare` takes where none is named
    config: str | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None
    other_fields: dict[str, Any] = {}
    checkpoint_keys: tuple[str, ...] = ()
    checkpoint_prefix: str | None = None  # of a VAE's names in a whole checkpoint


class PublishedFile(_Table):
    """One file of weights: name in its repository; size in bytes and sha256 where known.

    also: names that it is passed on under
    seen: the number of independent public lists that give its sha256
    """

    name: str
    also: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    seen: int | None = None


class KnownVAE(_Table):
    """A VAE that can't be downloaded by name: what its files are known by, in `known_files.toml`."""

    title: str
    space: str | None = None
    files: tuple[PublishedFile, ...]


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
    pixel_range: tuple[float, float] | None = None
    other_fields: dict[str, Any] = {}
    repo: str | None = None
    revision: str = "main"
    files: tuple[PublishedFile, ...] = ()
    other_files: tuple[PublishedFile, ...] = ()
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

    An embedded one names its VAE, its default steps and guidance scale, and what its prompts are.
    """

    title: str
    space: str
    licence: str
    repo: str | None = None
    embedded: str | None = None
    vae: str = ""
    steps: int = 0
    guidance_scale: float = 0.0
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

    def advice(self, text: str, use: str) -> str:
        """What to do where no file `text` exists: `use` says how, if it is a known VAE's name."""
        return f"{text} is a VAE that vaelens knows by name: {use}." if text.lower() in self.vaes else "Check the path."

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
        """The name of the embedded model, which is the default where neither model nor VAE is named."""
        return next(name for name, model in self.models.items() if model.embedded)

    def spec(self, name: str) -> VAESpec:
        """The complete spec of a known VAE, from the registry alone."""
        entry = self.find(name)
        spec = self._spec(entry.space, entry.config, entry)
        if spec is None:
            raise ValueError(f"vaes.toml: {name} and its space lack config, scale or shift")
        return spec

    def space_spec(self, space: str) -> VAESpec | None:
        """The spec of a full VAE of a latent space; None where vaelens knows none."""
        return self._spec(space, None, None) if space in self.spaces else None

    def _spec(self, space: str, config: str | None, entry: Entry | None) -> VAESpec | None:
        """From an entry's fields, else its family's convention, else its space."""
        other = {} if config else self.spaces[space].other_fields  # which are those of its own config
        config = config or self.spaces[space].config
        if config is None:
            return None
        network = self.network_config(config)
        family = families()[self.configs[config]["family"]]
        values = {f: getattr(self.spaces[space], f) for f in ("scaling_factor", "shift_factor")}
        values |= {"pixel_range": family.pixel_range, **family.convention}
        values |= {f: v for f in values if (v := getattr(entry, f, None)) is not None}
        if None in values.values():
            return None
        return VAESpec(network, space, **values, other_fields={**other, **(entry.other_fields if entry else {})})

    def check_space(self, space: str) -> None:
        """Raises UsageError for a latent space that isn't known."""
        if space not in self.spaces:
            raise UsageError(f"no latent space is called {space!r}. Known: {', '.join(self.spaces)}.")

    def space_of(self, key: Hashable) -> str | None:
        """The latent space whose VAEs have these numbers (`Family.space_key`); None if no known one has them."""
        for name in self.spaces:
            spec = self.space_spec(name)
            if spec and spec.family.space_key(spec.config, spec.scaling_factor, spec.shift_factor) == key:
                return name
        return None

    def spaces_that_fit(self, family: Family, values: Mapping[str, Any]) -> list[str]:
        """The latent spaces with a known VAE of the family whose config has these values of its fields."""
        found: list[str] = []
        for name, entry in self.vaes.items():
            spec = self.spec(name)
            held = config_values(spec.config)
            if spec.family is family and all(held[field] == value for field, value in values.items()):
                found.append(entry.space)
        return list(dict.fromkeys(found))

    def by_sha256(self, digest: str) -> str | None:
        """The name of the VAE published in a file with this sha256."""
        for name, entry in self.vaes.items():
            if any(file.sha256 == digest for file in (*entry.files, *entry.other_files)):
                return name
        return None

    def embedded(self) -> list[str]:
        """The names of the embedded VAEs, which are the default where none is named."""
        return [name for name, entry in self.vaes.items() if entry.embedded]

    def network_config(self, name: str) -> NetworkConfig:
        """A network's config by its name in the registry."""
        values = dict(self.configs[name])
        return families()[values.pop("family")].config(**frozen(values))


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
    return {k: _frozen(v) for k, v in values.items()}


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, cast(list[Any], value))) if isinstance(value, list) else value
