"""What files are compared with: known VAEs that are on this machine, what the caller names, and the files themselves.

Nothing is downloaded for it, except a known VAE that the caller names and that isn't here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vaelens.download.hub import cached
from vaelens.families.discovery import families
from vaelens.files import StrPath
from vaelens.identification.weights.examined_file import ExaminedFile, Signature, examine_file, signature
from vaelens.identification.weights.half_values import HalfValues
from vaelens.identification.weights.scaling import Scaling, claimed_scaling
from vaelens.loading import check_source, read, remote_files
from vaelens.runtime import Runtime
from vaelens.text.paths import user_path
from vaelens.weights.fingerprint import Content, halves
from vaelens.weights.folders import STEM, find_weights
from vaelens.weights.known_files import known_files, known_vaes
from vaelens.weights.names import distinct_names
from vaelens.weights.recorded_contents import recorded_contents
from vaelens.weights.registry import registry

ENCODER, DECODER = 0, 1


@dataclass(frozen=True, eq=False)
class Reference:
    """A VAE to compare with, under a known VAE's name or a file's.

    `is_known` tells which; `is_named` that the caller gave it to compare with. `halves` are encoder and decoder,
    without weights where only the content was recorded. `path` is the file's, where it is one of those to identify.
    `scaling` is what its metadata claim; `undone` names the tensors of one whose scaling was undone, which were stored
    multiplied by 2^-n.
    """

    name: str
    space: str | None
    family: str
    is_known: bool
    halves: tuple[HalfValues, HalfValues]
    is_named: bool = False
    path: Path | None = None
    scaling: Scaling | None = None
    undone: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def is_trusted(self) -> bool:
        """Whether it is a known VAE or one that the caller gave to compare with."""
        return self.is_known or self.is_named

    @property
    def place(self) -> str:
        """What tells its VAE from others: where its file lies, else its name."""
        return str(self.path.resolve()) if self.path is not None else self.name

    def half(self, number: int) -> HalfValues:
        """The encoder's values or the decoder's."""
        return self.halves[number]

    def signature(self, number: int) -> Signature | None:
        """What tells with which halves this one can be compared; None without weights."""
        weights = self.halves[number].weights
        return None if weights is None else signature(weights, families()[self.family])


def recorded_references() -> list[Reference]:
    """The known VAEs whose content was recorded on this machine."""
    spaces = {file.vae: file.space for file in known_files()}
    return [
        Reference(one.vae, spaces[one.vae], one.family, True, _of_recorded(one.content))
        for one in recorded_contents()
        if one.vae in spaces
    ]


def local_references(files: Sequence[ExaminedFile]) -> tuple[list[Reference], list[str]]:
    """The known VAEs of this machine that some file can be compared with, with weights; and those that aren't here."""
    found: list[Reference] = []
    missing: list[str] = []
    for name, entry in registry().vaes.items():
        spec = registry().spec(name)
        told = {field: getattr(spec.config, field) for field in spec.family.field_names()}
        if not any(
            file.vae is not None
            and file.vae.raw.family is spec.family
            and all(told[field] == value for field, value in file.vae.values.items())
            for file in files
        ):
            continue
        if entry.embedded:
            found.append(_of_name(name, Runtime(offline=True)))
            continue
        paths = [cached(file) for file in remote_files(entry)]
        examined = [examine_file(path, with_content=False) for path in paths if path is not None]
        references = [one for file in examined if (one := reference_of(file)) is not None and one.name == name]
        found += references
        if not references:
            missing.append(name)
    return found, missing


def named_references(sources: Sequence[StrPath], runtime: Runtime) -> list[Reference]:
    """What the caller wants files compared with: names of known VAEs, files or folders of VAEs, hub ids.

    Raises what `loading.read` raises.
    """
    found: list[Reference] = []
    for source in sources:
        text = check_source(source)
        path = user_path(text) if "://" not in text else None
        called = None
        if path is not None and path.is_dir():
            called = path.absolute().name
            path = find_weights(path)
        if path is not None and path.is_file():
            examined = examine_file(path, with_content=False)
            if examined.error is not None:
                raise examined.error
            if (reference := reference_of(examined, named=True, called=called)) is not None:
                found.append(reference)
                continue
        found.append(_of_name(text, runtime, named=True))
    return found


def named_apart(references: Sequence[Reference]) -> list[Reference]:
    """The references, unknown ones under names that no other VAE has, as halves are told by names.

    What is there twice, as a file and as one to compare with, has the first one's name.
    """
    unknown = {one.place: one for one in reversed(references) if not one.is_known}
    firsts = [one for one in references if unknown.get(one.place) is one]
    taken = known_vaes()
    names = distinct_names(
        [*taken, *(one.name for one in firsts)], [*(None for _ in taken), *(one.path for one in firsts)]
    )
    by_place = dict(zip((one.place for one in firsts), names[len(taken) :], strict=True))
    return [one if one.is_known else replace(one, name=by_place[one.place]) for one in references]


def reference_of(file: ExaminedFile, *, named: bool = False, called: str | None = None) -> Reference | None:
    """A file as something to compare others with: under its VAE's name if its sha256 is known, else as `called`.

    Default: the file's name, and its folder's where all folders of diffusers have a file of that name.
    """
    if file.vae is None:
        return None
    vae, raw, known = file.vae, file.vae.raw, file.known
    own = file.path.name
    if own.startswith(STEM):
        own = f"{file.path.absolute().parent.name}/{own}"
    name, space = (called or own, None) if known is None else (known.vae, known.space)
    encoder, decoder = (half.tensors for half in vae.halves)
    both = HalfValues(encoder, lambda: vae.encoder_content), HalfValues(decoder, lambda: vae.decoder_content)
    scaling = claimed_scaling(vae)
    return Reference(name, space, raw.family.name, known is not None, both, named, file.path, scaling=scaling)


def _of_name(text: str, runtime: Runtime, *, named: bool = False) -> Reference:
    weights, name = read(text, runtime)
    family, space = weights.spec.family, weights.spec.latent_space
    is_known = name in registry().vaes
    encoder, decoder = (HalfValues.of(half) for half in halves(weights.tensors, family))
    return Reference(name, space, family.name, is_known, (encoder, decoder), named)


def _of_recorded(content: Content) -> tuple[HalfValues, HalfValues]:
    return HalfValues(None, lambda: content.encoder), HalfValues(None, lambda: content.decoder)
