"""The spec of a VAE from what several sources say, in order of precedence. Nothing is guessed.

The order: the tensors' shapes; config.json; the file's own metadata; the registry (the VAE's entry, or the entry whose
published file has this sha256; the space that a checkpoint's other tensors name, and the one that the caller names);
the family's convention; what diffusers means by a field that its config.json leaves out. Where a family's numbers don't
tell the latent space, it is the only known one with VAEs of these shapes, if there is one.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vaelens.errors import BadInputError
from vaelens.families.discovery import families
from vaelens.families.family import Family
from vaelens.families.spec import VAESpec, config_values
from vaelens.json_reading import parse_json, quoted
from vaelens.text.wrong_fields import explain_value
from vaelens.weights.known_files import files_by_hash
from vaelens.weights.registry import frozen, registry

SPEC_KEY = "vaelens"  # in the metadata of a file of weights
METADATA_VERSION = 1
OTHER_BYTES = 100_000  # a config.json has a thousand; what is kept must fit into the header of what is saved
BY_SHAPES = "the tensors' shapes, which no other known latent space has"
SPEC_FIELDS = ("latent_space", "scaling_factor", "shift_factor", "pixel_range")


@dataclass(frozen=True)
class SpecSource:
    """What one source says: fields of the config and of VAESpec by name. A `default` only fills gaps.

    `other_fields` are those of diffusers' config.json, JSON values as they stand there; two sources may differ in them.
    """

    name: str
    values: Mapping[str, Any]
    default: bool = False
    other_fields: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class ResolvedSpec:
    """A complete spec, and for each of its fields, and of its `other_fields`, the name of the source that says it."""

    spec: VAESpec
    source_of: dict[str, str]
    source_of_other: dict[str, str]


def resolve(family: Family, sources: Sequence[SpecSource], where: str) -> ResolvedSpec:
    """One spec from sources in order of precedence; the family's convention comes after them.

    Raises BadInputError where two sources contradict each other, naming both, where a value has another type than its
    field, and where a field stays open.
    """
    values: dict[str, Any] = {}
    source_of: dict[str, str] = {}
    sources = [*sources, SpecSource(f"the convention for {family.title}", family.convention)]
    sources.sort(key=lambda source: source.default)
    for source in sources:
        check_types(family, source, where)
        for name, value in source.values.items():
            if name not in values:
                values[name], source_of[name] = value, source.name
            elif values[name] != value and not source.default:
                raise BadInputError(
                    f"{where}: {name} is {_shown(values[name])} by {source_of[name]}, but {_shown(value)} by "
                    f"{source.name}. One of them belongs to another VAE."
                )
    names = family.field_names()
    missing = [f for f in (*sorted(names), *SPEC_FIELDS) if f not in {*values, *family.assumed, "latent_space"}]
    if missing:
        raise BadInputError(_missing_message(where, family, values, missing))
    try:
        config = family.config(**{f: v for f, v in values.items() if f in names})
    except ValueError as error:
        raise BadInputError(f"{where}: not a network: {error}.") from error
    key = family.space_key(config, values["scaling_factor"], values["shift_factor"])
    if key is not None:
        by_numbers = registry().space_of(key)
        stated = values.setdefault("latent_space", by_numbers)
        source = source_of.setdefault("latent_space", "its numbers")
        if stated != by_numbers and stated in registry().spaces:
            raise BadInputError(
                f"{where}: the latent space is {stated} by {source}, but channels, scale and shift are those of "
                f"{by_numbers or 'another space'}. One of them belongs to another VAE."
            )
    elif values.get("latent_space") is None:  # as for all tiny autoencoders, whose numbers are the same in each space
        told = {f: v for f, v in values.items() if f in names}
        if len(fitting := registry().spaces_that_fit(family, told)) == 1:
            values["latent_space"], source_of["latent_space"] = fitting[0], BY_SHAPES
    saying = {f: source for source in reversed(sources) for f in source.other_fields}  # the first one that says it
    saying = {f: saying[f] for f in sorted(saying.keys() - family.json_fields(config))}
    other = {f: source.other_fields[f] for f, source in saying.items()}
    size = len(json.dumps(other))
    if size > OTHER_BYTES:
        raise BadInputError(
            f"{where}: {size:,} bytes of fields that vaelens doesn't know, of which it keeps {OTHER_BYTES:,} at most. "
            "Remove the largest ones from config.json."
        )
    spec = VAESpec(config, **{f: values.get(f) for f in SPEC_FIELDS}, other_fields=other)  # pyright: ignore[reportArgumentType]
    return ResolvedSpec(spec, source_of, {f: source.name for f, source in saying.items()})


def spec_source(name: str, spec: VAESpec) -> SpecSource:
    """All that a complete spec says; a default that is assumed anyway says nothing."""
    default = {f.name: f.default for f in dataclasses.fields(spec.config)}
    values = {f: v for f, v in config_values(spec.config).items() if f not in spec.family.assumed or v != default[f]}
    values |= {f: getattr(spec, f) for f in SPEC_FIELDS}
    return SpecSource(name, values, other_fields=spec.other_fields)


def metadata_text(spec: VAESpec) -> str:
    """The complete spec as JSON, for a safetensors file's metadata."""
    values = {"version": METADATA_VERSION, "kind": spec.family.name, "config": config_values(spec.config)}
    values |= {f: getattr(spec, f) for f in SPEC_FIELDS} | {"other_fields": spec.other_fields}
    return json.dumps(values, sort_keys=True)


def metadata_source(text: str, family: Family, where: str) -> SpecSource:
    """The inverse of `metadata_text`. Raises BadInputError where it is damaged or describes another family."""
    try:
        values = cast(dict[str, Any], parse_json(text))
        if values["version"] != METADATA_VERSION:
            raise BadInputError(
                f"{where}: its metadata has the version {quoted(values['version'])}; this vaelens reads "
                f"{METADATA_VERSION}. Install the vaelens that wrote it."
            )
        if values["kind"] in families() and values["kind"] != family.name:
            other = families()[values["kind"]].title
            raise BadInputError(f"{where}: its metadata describes {other}, its tensors are those of {family.title}.")
        flat = {f: v for f, v in values["config"].items() if f in family.field_names()}
        flat |= {f: values[f] for f in SPEC_FIELDS}
        other = values.get("other_fields", {})
        if not isinstance(other, dict):
            raise TypeError("other_fields isn't an object")
        other = cast(dict[str, Any], other)
        _, odd = family.from_config_json(other)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"{where}: its vaelens metadata is damaged ({quoted(error)}). Use the original file."
        ) from error
    if odd:
        raise BadInputError(f"{where}: its vaelens metadata asks for {listed(odd)}, which vaelens doesn't have.")
    return SpecSource("the file's metadata", frozen(flat), other_fields=other)


def check_types(family: Family, source: SpecSource, where: str) -> None:
    """Raises BadInputError for a value that isn't of its field's type."""
    types = _types(family)
    for name, value in source.values.items():
        try:
            types[name].validate_python(value)
        except ValidationError as error:
            wrong = explain_value(error.errors(include_url=False)[0])
            raise BadInputError(
                f"{where}: in {source.name}, field {name!r}: {wrong}. Use the original file."
            ) from error


@cache
def _types(family: Family) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(VAESpec, include_extras=True) | get_type_hints(family.config, include_extras=True)
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return {field: TypeAdapter(hints[field], config=strict) for field in (*family.field_names(), *SPEC_FIELDS)}


def _missing_message(where: str, family: Family, values: Mapping[str, Any], missing: Sequence[str]) -> str:
    message = f"{where} doesn't say {', '.join(missing)}, which tensor shapes don't tell."
    fitting = [
        name
        for name in registry().spaces
        if (spec := registry().space_spec(name)) is not None
        and spec.family is family
        and all(values.get(f, v) == v for f, v in config_values(spec.config).items())
    ]
    if len(fitting) == 1:
        return f"{message} A VAE of {fitting[0]} has such shapes: if it is one, name that space, --space {fitting[0]}."
    if fitting:
        advice = f"name its latent space, e.g. --space {fitting[0]}; `vaelens identify {where}` may tell which."
        return f"{message} VAEs of {' and '.join(fitting)} have such shapes: {advice}"
    return f"{message} Put the config.json of its publisher beside it, in a folder without other VAEs."


def listed(odd: Sequence[str]) -> str:
    """What a config asks for beyond its family, as messages list it."""
    return ", ".join(one[:60] for one in odd[:4])


def _shown(value: object) -> str:
    return ", ".join(map(str, cast(tuple[object, ...], value))) if isinstance(value, tuple) else str(value)


def published_sources(digest: str, family: Family) -> tuple[str | None, list[SpecSource]]:
    """What a published file says by its sha256: the name of its VAE where that is listed, and its spec or space."""
    name = registry().by_sha256(digest)
    if name is not None:
        return name, [spec_source(f"the registry (its sha256 is {name}'s)", registry().spec(name))]
    return None, [
        space_source(f"the registry (its sha256 is {known.vae}'s)", known.space, family)
        for known in files_by_hash(digest)[:1]
        if known.space is not None
    ]


def space_source(title: str, space: str, family: Family) -> SpecSource:
    """What a latent space says of a VAE: all that its full VAEs have, if it is of their family."""
    spec = registry().space_spec(space)
    if spec is not None and spec.family is family:
        return spec_source(title, spec)
    return SpecSource(title, {"latent_space": space})
