"""Settling a spec from what several sources say, in order; where two disagree, nobody guesses.

The order: the tensors' shapes; config.json; the file's own metadata; the registry (the VAE's entry, the
entry whose published file has this sha256, the space that a checkpoint's other tensors or the caller
name); at last what diffusers means by a field that its config.json leaves out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from vaelens.errors import BadInputError
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.weights.registry import config_values, frozen, registry
from vaelens.weights.spec import VAESpec

METADATA_KEY = "vaelens"
METADATA_VERSION = 1

KL_FIELDS = set(AutoencoderKLConfig.__dataclass_fields__)
TINY_FIELDS = set(TinyAutoencoderConfig.__dataclass_fields__)
SPEC_FIELDS = ("latent_space", "scaling_factor", "shift_factor", "pixel_range")
TINY_FIXED = {"scaling_factor": 1.0, "shift_factor": 0.0, "pixel_range": (0.0, 1.0)}


@dataclass(frozen=True)
class Claim:
    """What one source says: spec fields by name, flat. A `default` only fills gaps and contradicts nobody."""

    source: str
    values: Mapping[str, Any]
    default: bool = False


@dataclass(frozen=True)
class Settled:
    """A complete spec, and for each field who said so."""

    spec: VAESpec
    sources: dict[str, str]


def settle(kind: str, claims: Sequence[Claim], where: str) -> Settled:
    """One spec from claims in order of precedence; kind is `kl` or `tiny`.

    Raises BadInputError where two claims contradict each other, naming both, and where a field stays open.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for claim in sorted(claims, key=lambda c: c.default):
        for field, value in claim.values.items():
            if field not in values:
                values[field], sources[field] = value, claim.source
            elif values[field] != value and not claim.default:
                raise BadInputError(
                    f"{where}: {field} is {_shown(values[field])} by {sources[field]}, but {_shown(value)} by "
                    f"{claim.source}. One of them belongs to another VAE."
                )
    if kind == "kl":
        values.setdefault("latent_space", _space_by_numbers(values))
        sources.setdefault("latent_space", "its numbers")
    names = KL_FIELDS if kind == "kl" else TINY_FIELDS
    open_fields = [f for f in (*sorted(names), *SPEC_FIELDS) if f not in values and not _has_default(kind, f)]
    if open_fields:
        raise BadInputError(_open_message(where, kind, values, open_fields))
    make = AutoencoderKLConfig if kind == "kl" else TinyAutoencoderConfig
    try:
        config = make(**{f: v for f, v in values.items() if f in names})
    except ValueError as error:
        raise BadInputError(f"{where}: not a network: {error}.") from error
    return Settled(VAESpec(config, **{f: values.get(f) for f in SPEC_FIELDS}), sources)  # pyright: ignore[reportArgumentType]


def spec_claim(source: str, spec: VAESpec) -> Claim:
    """All that a complete spec says."""
    return Claim(source, config_values(spec.config) | {f: getattr(spec, f) for f in SPEC_FIELDS})


def metadata_text(spec: VAESpec) -> str:
    """The complete spec as JSON, for a safetensors file's metadata."""
    kind = "tiny" if isinstance(spec.config, TinyAutoencoderConfig) else "kl"
    values = {"version": METADATA_VERSION, "kind": kind, "config": config_values(spec.config)}
    return json.dumps(values | {f: getattr(spec, f) for f in SPEC_FIELDS}, sort_keys=True)


def metadata_claim(text: str, where: str) -> Claim:
    """The inverse of `metadata_text`. Raises BadInputError where it can't be understood."""
    try:
        values = cast(dict[str, Any], json.loads(text))
        if values["version"] != METADATA_VERSION:
            raise BadInputError(f"{where}: metadata of version {values['version']}, written by another vaelens.")
        flat = values["config"] | {f: values[f] for f in SPEC_FIELDS}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{where}: its vaelens metadata is damaged ({error!r}).") from error
    return Claim("the file's metadata", frozen(flat))


def _has_default(kind: str, field: str) -> bool:
    """TAESD's depth and channels in and out are the family's; a tiny's latent space may be unknown."""
    return kind == "tiny" and field in {
        "in_channels", "out_channels", "num_encoder_blocks", "num_decoder_blocks", "latent_space",
    }  # fmt: skip


def _space_by_numbers(values: Mapping[str, Any]) -> str | None:
    if "scaling_factor" not in values or "shift_factor" not in values:
        return None
    factor = 2 ** (len(values["block_out_channels"]) - 1)
    return registry().space_of(values["latent_channels"], factor, values["scaling_factor"], values["shift_factor"])


def _open_message(where: str, kind: str, values: Mapping[str, Any], open_fields: Sequence[str]) -> str:
    message = f"{where} doesn't say {', '.join(open_fields)}, and tensor shapes don't tell"
    fitting: list[str] = []
    for name, space in registry().spaces.items():
        if kind == "kl" and space.config is not None:
            known = config_values(registry().space_spec(name).config)
            if all(values.get(f, v) == v for f, v in known.items()):
                fitting.append(name)
    if fitting:
        return f"{message}: its shapes fit {' and '.join(fitting)}. Name its latent space, e.g. --space {fitting[0]}."
    return f"{message}. Put the config.json of its publisher beside it, in one folder, and name the folder."


def _shown(value: object) -> str:
    return ", ".join(map(str, cast(tuple[object, ...], value))) if isinstance(value, tuple) else str(value)
