"""Settling a spec from what several sources say, in order; where two disagree, nobody guesses.

The order: the tensors' shapes; config.json; the file's own metadata; the registry (the VAE's entry, or the
entry whose published file has this sha256; the space that a checkpoint's other tensors name, and the one
that the caller names); at last what diffusers means by a field that its config.json leaves out.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
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
        _check_types(claim, where)
        for field, value in claim.values.items():
            if field not in values:
                values[field], sources[field] = value, claim.source
            elif values[field] != value and not claim.default:
                raise BadInputError(
                    f"{where}: {field} is {_shown(values[field])} by {sources[field]}, but {_shown(value)} by "
                    f"{claim.source}. One of them belongs to another VAE."
                )
    if kind == "kl" and {"scaling_factor", "shift_factor"} <= set(values):
        by_numbers = _space_by_numbers(values)
        said = values.setdefault("latent_space", by_numbers)
        source = sources.setdefault("latent_space", "its numbers")
        if said != by_numbers and said in registry().spaces:
            raise BadInputError(
                f"{where}: the latent space is {said} by {source}, but channels, scale and shift are those of "
                f"{by_numbers or 'another space'}. One of them belongs to another VAE."
            )
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
        known = KL_FIELDS | TINY_FIELDS
        flat = {f: v for f, v in values["config"].items() if f in known} | {f: values[f] for f in SPEC_FIELDS}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInputError(f"{where}: its vaelens metadata is damaged ({error!r}).") from error
    return Claim("the file's metadata", frozen(flat))


def _has_default(kind: str, field: str) -> bool:
    """TAESD's depth and channels in and out are the family's; a tiny's latent space may be unknown."""
    return kind == "tiny" and field in {
        "in_channels", "out_channels", "num_encoder_blocks", "num_decoder_blocks", "latent_space",
    }  # fmt: skip


def _check_types(claim: Claim, where: str) -> None:
    """Each field of a claim has its type and a value that means something. Raises BadInputError."""
    for field, value in claim.values.items():
        expected, fits = next((expected, fits) for fields, expected, fits in TYPES if field in fields)
        if not fits(value):
            raise BadInputError(f"{where}: {field} is {value!r} by {claim.source}, where {expected} should stand.")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are(check: Callable[[object], bool], value: object) -> bool:
    return isinstance(value, tuple) and all(check(v) for v in cast(tuple[object, ...], value))


TYPES: tuple[tuple[set[str], str, Callable[[Any], bool]], ...] = (
    ({"latent_space"}, "a name", lambda v: v is None or isinstance(v, str)),
    ({"scaling_factor", "norm_eps"}, "a number above 0", lambda v: _is_number(v) and v > 0),
    ({"shift_factor"}, "a number", _is_number),
    ({"pixel_range"}, "a lower and an upper bound", lambda v: _are(_is_number, v) and len(v) == 2 and v[0] < v[1]),
    (
        {"block_out_channels", "num_encoder_blocks", "num_decoder_blocks"},
        "a list of whole numbers",
        lambda v: _are(_is_int, v),
    ),
    (
        {"use_quant_conv", "use_post_quant_conv", "mid_block_add_attention", "mid_block_pool"},
        "true or false",
        lambda v: isinstance(v, bool),
    ),
    (KL_FIELDS | TINY_FIELDS, "a whole number", _is_int),
)


def _space_by_numbers(values: Mapping[str, Any]) -> str | None:
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
