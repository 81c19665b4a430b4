"""Fingerprints: what a VAE is by its weights' content, whatever its file is called.

sha256 over (name, shape, dtype, bytes) of the tensors sorted by diffusers name, encoder and decoder apart; the family
says which tensors belong to which. The digests of the fp16 and bf16 casts are beside it, so that a copy stored in
another precision is recognised. `content` also says which of two is the other's rounding.
"""

import hashlib
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from vaelens.families.family import Family
from vaelens.runtime import dtype_name
from vaelens.tensors.writing import tensor_bytes

SHORT = 12
PIECE = 2**15  # elements: casting them takes little memory, and no threads that would wait for each other
HALF_PRECISIONS = (torch.float16, torch.bfloat16)
SHORT_NAMES = {"float16": "fp16", "bfloat16": "bf16"}

Checksum = dict[str, tuple[torch.dtype, torch.Size, int]]  # by name: dtype, shape, CRC-32 of the bytes


@dataclass(frozen=True)
class Digests:
    """sha256 of one half of a VAE: as stored, and cast."""

    stored: str
    fp16: str
    bf16: str

    def is_same(self, other: "Digests") -> bool:
        """Whether both are the same weights, perhaps stored in different precisions."""
        if self.stored == other.stored or self.fp16 == other.fp16:
            return True
        in_bf16 = self.stored == self.bf16 or other.stored == other.bf16
        return in_bf16 and self.bf16 == other.bf16


@dataclass(frozen=True)
class Fingerprint:
    """A VAE's encoder and decoder: two VAEs with equal encoders make the same latents."""

    encoder: Digests
    decoder: Digests

    @property
    def short(self) -> str:
        """For display: the first characters of both digests, `encoder-decoder`."""
        return f"{self.encoder.stored[:SHORT]}-{self.decoder.stored[:SHORT]}"

    def as_dict(self) -> dict[str, dict[str, str]]:
        """For records."""
        return asdict(self)


@dataclass(frozen=True)
class HalfContent:
    """One half's values, whatever they are stored in.

    `values` is the digest of the values in float32; `exact_in` names the half precisions that hold all of them, which
    is how a file that was rounded is known, also when it was stored in float32 afterwards.
    """

    digests: Digests
    values: str
    exact_in: tuple[str, ...] = ()

    def same_as(self, other: "HalfContent") -> bool:
        """Whether the values are the same, or one's are the other's in half precision."""
        return self.values == other.values or self.is_rounded(other) or other.is_rounded(self)

    def is_rounded(self, other: "HalfContent") -> bool:
        """Whether these values are the other's, rounded to float16 or bfloat16."""
        return any(
            getattr(self.digests, SHORT_NAMES[p]) == getattr(other.digests, SHORT_NAMES[p]) for p in self.exact_in
        )


@dataclass(frozen=True)
class Content:
    """A VAE's encoder and decoder by their values."""

    encoder: HalfContent
    decoder: HalfContent

    @property
    def fingerprint(self) -> Fingerprint:
        """What records and images name."""
        return Fingerprint(self.encoder.digests, self.decoder.digests)


def fingerprint(tensors: Mapping[str, Tensor], family: Family) -> Fingerprint:
    """The fingerprint of tensors under their diffusers names, on any device."""
    return Fingerprint(*(_digests(half) for half in halves(tensors, family)))


def content(tensors: Mapping[str, Tensor], family: Family) -> Content:
    """The values of tensors under their diffusers names, on any device; a third slower than `fingerprint`."""
    return Content(*(half_content(half) for half in halves(tensors, family)))


def halves(tensors: Mapping[str, Tensor], family: Family) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The encoder's tensors and the decoder's, under their full names."""
    encoder, decoder = (
        {name: t for name, t in tensors.items() if name.split(".")[0] in parts}
        for parts in (family.encoder_parts, family.decoder_parts)
    )
    return encoder, decoder


def checksum(tensors: Mapping[str, Tensor]) -> Checksum:
    """A checksum of each tensor, which tells whether it was changed at a tenth of a fingerprint's cost.

    It reads the bytes, because torch doesn't count every change in place (through `.data` or NumPy it doesn't).
    """
    with ThreadPoolExecutor() as pool:
        return dict(zip(tensors, pool.map(_crc, tensors.values()), strict=True))


def _crc(tensor: Tensor) -> tuple[torch.dtype, torch.Size, int]:
    return tensor.dtype, tensor.shape, zlib.crc32(tensor_bytes(tensor.detach().cpu()))


def half_content(tensors: Mapping[str, Tensor]) -> HalfContent:
    """The values of one half's tensors under their diffusers names, on any device."""
    with ThreadPoolExecutor() as pool:
        digests = pool.submit(_digests, tensors)
        exact = pool.submit(exact_in, tensors)
        in_float32 = all(tensor.dtype == torch.float32 for tensor in tensors.values())
        values = digests if in_float32 else pool.submit(_digest, tensors, torch.float32)
    found = values.result()
    return HalfContent(digests.result(), found if isinstance(found, str) else found.stored, exact.result())


def exact_in(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The half precisions that hold all values as they are in float32."""
    return tuple(dtype_name(precision) for precision in HALF_PRECISIONS if _is_exact(tensors, precision))


def _is_exact(tensors: Mapping[str, Tensor], precision: torch.dtype) -> bool:
    """Whether a half precision holds all values as they are in float32."""
    return all(
        tensor.dtype == precision or torch.equal(tensor.to(precision).float(), tensor.float())
        for tensor in tensors.values()
    )


def _digests(tensors: Mapping[str, Tensor]) -> Digests:
    with ThreadPoolExecutor() as pool:  # hashing and casting leave the interpreter free
        jobs = [pool.submit(_digest, tensors, cast) for cast in (None, torch.float16, torch.bfloat16)]
    return Digests(*(job.result() for job in jobs))


def _digest(tensors: Mapping[str, Tensor], cast: torch.dtype | None) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        dtype = str(cast or tensor.dtype).removeprefix("torch.")
        sha.update(f"{name}|{list(tensor.shape)}|{dtype}|".encode())
        for piece in torch.split(tensor.reshape(-1), PIECE):  # so that casting takes little memory
            sha.update(tensor_bytes(piece.to("cpu", cast)))
    return sha.hexdigest()
