"""One file of weights, read: its sha256, and the values, names and layout of the VAE in it, or why there is none."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from vaelens.adapters.autoencoders import build_network
from vaelens.errors import BadInputError, VaelensError
from vaelens.families.family import Family
from vaelens.files import sha256_file
from vaelens.identification.weights.other_vaes import OtherVAE, other_vae
from vaelens.runtime import dtype_name
from vaelens.tensors.file_types import check_file
from vaelens.tensors.formats import open_tensors
from vaelens.tensors.sharded import is_index
from vaelens.text.file_kinds import file_kind
from vaelens.text.paths import reason
from vaelens.weights.fingerprint import Content, HalfContent, half_content, halves
from vaelens.weights.known_files import KnownFile, files_by_hash
from vaelens.weights.other_networks import other_networks
from vaelens.weights.reading import RawVAE, read_raw, stated_values
from vaelens.weights.recorded_contents import RecordedContent, record_content, recorded_contents
from vaelens.weights.saving import HASHES, OURS

UNTOLD = "other tensors"

Signature = tuple[str, frozenset[tuple[str, tuple[int, ...]]]]


@dataclass(frozen=True)
class HalfWeights:
    """An encoder or a decoder: its tensors by diffusers name. Two with equal signatures can be compared."""

    tensors: Mapping[str, Tensor]
    signature: Signature


@dataclass(frozen=True)
class ReadVAE:
    """The VAE in a file; `values` are the fields of its config that shapes tell."""

    raw: RawVAE
    values: Mapping[str, Any]

    @cached_property
    def content(self) -> Content:
        """Its values, which take a second the first time."""
        return Content(self.encoder_content, self.decoder_content)

    @cached_property
    def encoder_content(self) -> HalfContent:
        """The encoder's values."""
        return half_content(self.halves[0].tensors)

    @cached_property
    def decoder_content(self) -> HalfContent:
        """The decoder's values."""
        return half_content(self.halves[1].tensors)

    @cached_property
    def halves(self) -> tuple[HalfWeights, HalfWeights]:
        """Encoder and decoder."""
        both = halves(self.raw.tensors, self.raw.family)
        encoder, decoder = (HalfWeights(half, signature(half, self.raw.family)) for half in both)
        return encoder, decoder

    @property
    def stored_as(self) -> str:
        """The precisions of its tensors in the file."""
        return ", ".join(sorted({dtype_name(tensor.dtype) for tensor in self.raw.tensors.values()}))

    @property
    def beside(self) -> list[str]:
        """What the file holds beside the VAE, in words, as far as names tell; nothing for a VAE by itself."""
        return (other_networks(self.raw.files[0]) or [UNTOLD]) if self.raw.others else []

    @property
    def has_training_state(self) -> bool:
        """Whether training left more in the file than single numbers: averaged weights, a discriminator, an optimizer.

        What vaelens doesn't know in a pickled file counts as well.
        """
        shapes = {name: shape for file in self.raw.files for name, shape in file.shapes.items()}
        left = any(size > 1 for name in self.raw.dropped for size in shapes[name])
        return left or any(file.dropped for file in self.raw.files)

    @cached_property
    def stated(self) -> Mapping[str, Any]:
        """The fields of config and spec that its metadata, config.json and shapes say."""
        return stated_values(self.raw, self.values)


@dataclass(frozen=True)
class ExaminedFile:
    """One file: what was read of it. `sha256` is None for an index of shards and for what isn't an ordinary file.

    Exactly one of `vae`, `other` (a VAE that vaelens doesn't run) and `error` is there. `known` is the published file
    that it is, by its sha256, also where it can't be read. `hashes` are the files with their
    sha256, `path` first; nothing for shards. `dropped` names what a pickled file holds beside tensors.
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    sha256: str | None
    known: KnownFile | None
    vae: ReadVAE | None = None
    other: OtherVAE | None = None
    error: VaelensError | None = None
    is_pickled: bool = False
    hashes: tuple[tuple[Path, str], ...] = ()
    dropped: tuple[str, ...] = ()

    # Of `os.path`, as its functions raise nothing for a link that leads in a circle or where nothing may be read.

    @cached_property
    def link_to(self) -> Path | None:
        """Where the first link among its files leads; None where all of them are files themselves."""
        links = (path for path in (self.path, *self.files) if os.path.islink(path))  # noqa: PTH114
        return next((Path(os.path.realpath(link)) for link in links), None)

    @cached_property
    def places(self) -> frozenset[Path]:
        """Where its files really lie, whatever links lead there."""
        return frozenset(Path(os.path.realpath(path)) for path in (self.path, *self.files))

    @cached_property
    def spec_values(self) -> Mapping[str, Any]:
        """The fields of config and spec that are known where no latent space is named, also by its sha256."""
        return stated_values(self.vae.raw, self.vae.values, self.sha256) if self.vae is not None else {}

    @cached_property
    def notes(self) -> frozenset[tuple[str, str]]:
        """What its metadata say beside the spec and beside hashes of the file: license, author, training, by name."""
        held = (file.metadata.items() for file in self.vae.raw.files) if self.vae is not None else ()
        return frozenset((name, text) for items in held for name, text in items if name not in HASHES | OURS)

    @property
    def tells_spec(self) -> bool:
        """Whether it says how its latents are scaled, so that nobody has to name its latent space."""
        return "scaling_factor" in self.spec_values

    @property
    def halves_of_two(self) -> tuple[Path, ...]:
        """The two files of a VAE whose encoder and decoder lie apart, `path` first; nothing for any other."""
        return tuple(path for path, _ in self.hashes) if len(self.hashes) > 1 else ()

    def is_copy(self, other: "ExaminedFile") -> bool:
        """Whether both are the same bytes, in all their files."""
        ours, theirs = ({sha256 for _, sha256 in one.hashes} for one in (self, other))
        return bool(ours) and ours == theirs


def examine_file(path: Path, *, with_content: bool = True) -> ExaminedFile:
    """Read a file; what is wrong with it is kept as its `error`.

    Its VAE's content is computed at once, unless it may not be needed: `with_content`.
    The content of a published file, known by its sha256, is recorded on this machine.
    """
    try:
        head, size = check_file(path) if not is_index(path.name) else (b"", path.stat().st_size)
    except (VaelensError, OSError) as error:
        return ExaminedFile(path, (path,), 0, None, None, error=_as_ours(path, error))
    kind = file_kind(head) if head else None
    is_pickled = kind is not None and kind.use == "pickle"
    with ThreadPoolExecutor(max_workers=1) as pool:
        hashed = pool.submit(_sha256, path)
        vae, other, error, dropped = _read(path)
        if with_content and vae is not None:
            _ = vae.content  # while its sha256 is computed
    sha256 = hashed.result()
    known = next(iter(files_by_hash(sha256 or "")), None)
    files = vae.raw.files if vae is not None else ()
    paths = tuple(file for one in files for file in one.files) or (path,)
    if vae is not None and known is not None and len(paths) == 1:
        _record(known, vae)
    try:
        if len(paths) > 1:
            size = sum(file.stat().st_size for file in paths)
        hashes = _hashes(path, sha256, paths)
    except OSError as failure:  # another file of the same VAE, gone since it was read
        error = _as_ours(Path(failure.filename or path), failure)
        return ExaminedFile(path, (path,), size, sha256, known, error=error, is_pickled=is_pickled)
    return ExaminedFile(path, paths, size, sha256, known, vae, other, error, is_pickled, hashes, dropped)


def signature(half: Mapping[str, Tensor], family: Family) -> Signature:
    """What two halves must have in common to be compared: the family, names and shapes."""
    return family.name, frozenset((name, tuple(tensor.shape)) for name, tensor in half.items())


def _read(path: Path) -> tuple[ReadVAE | None, OtherVAE | None, VaelensError | None, tuple[str, ...]]:
    dropped: tuple[str, ...] = ()
    try:
        opened = open_tensors(path)
        dropped = opened.dropped
        if (other := other_vae(opened.shapes)) is not None:
            return None, other, None, dropped
        raw, values = read_raw(path, build=build_network)
        dropped = tuple(dict.fromkeys(name for file in raw.files for name in file.dropped))
        return ReadVAE(raw, values), None, None, dropped
    except (VaelensError, OSError) as error:
        return None, None, _as_ours(path, error), dropped


def _record(known: KnownFile, vae: ReadVAE) -> None:
    if all(one.sha256 != known.sha256 for one in recorded_contents()):
        record_content(RecordedContent(known.vae, vae.raw.family.name, known.sha256, vae.content))


def _sha256(path: Path) -> str | None:
    """None for an index, which says nothing of its shards, and for a file that can't be read."""
    if is_index(path.name):
        return None
    try:
        return sha256_file(path)
    except OSError:
        return None


def _hashes(path: Path, sha256: str | None, paths: tuple[Path, ...]) -> tuple[tuple[Path, str], ...]:
    if sha256 is None:
        return ()
    others = [other for other in paths if other.absolute() != path.absolute()]
    return ((path, sha256), *((other, sha256_file(other)) for other in others))


def _as_ours(path: Path, error: Exception) -> VaelensError:
    if isinstance(error, VaelensError):
        return error
    return BadInputError(f"{path}: can't be read: {reason(error)}. Check the path.")
