"""Fingerprints: what a VAE is by its weights' content, whatever its file is called.

sha256 over (name, shape, dtype, bytes) of the tensors sorted by diffusers name, encoder and decoder apart; the family
says which tensors belong to which. The digests of the fp16 and bf16 casts are beside it, so that a copy stored in
another precision is recognised.
"""

import hashlib
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from vaelens.families.family import Family

SHORT = 12

Checksum = dict[str, tuple[torch.dtype, torch.Size, int]]  # by name: dtype, shape, CRC-32 of the bytes


@dataclass(frozen=True)
class Digests:
    """sha256 of one half of a VAE: as stored, and cast."""

    stored: str
    fp16: str
    bf16: str

    def is_same(self, other: "Digests") -> bool:
        """Whether both are the same weights, perhaps stored in different precisions."""
        return self.stored == other.stored or self.fp16 == other.fp16


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


def fingerprint(tensors: Mapping[str, Tensor], family: Family) -> Fingerprint:
    """The fingerprint of tensors under their diffusers names, on any device."""
    halves = (
        {name: t for name, t in tensors.items() if name.split(".")[0] in parts}
        for parts in (family.encoder_parts, family.decoder_parts)
    )
    return Fingerprint(*(_digests(half) for half in halves))


def checksum(tensors: Mapping[str, Tensor]) -> Checksum:
    """A checksum of each tensor, which tells whether it was changed at a tenth of a fingerprint's cost.

    It reads the bytes, because torch doesn't count every change in place (through `.data` or NumPy it doesn't).
    """
    with ThreadPoolExecutor() as pool:
        return dict(zip(tensors, pool.map(_crc, tensors.values()), strict=True))


def _crc(tensor: Tensor) -> tuple[torch.dtype, torch.Size, int]:
    return tensor.dtype, tensor.shape, zlib.crc32(_bytes(tensor.detach().cpu()))


def _digests(tensors: Mapping[str, Tensor]) -> Digests:
    with ThreadPoolExecutor() as pool:  # hashing and casting leave the interpreter free
        jobs = [pool.submit(_digest, tensors, cast) for cast in (None, torch.float16, torch.bfloat16)]
    return Digests(*(job.result() for job in jobs))


def _digest(tensors: Mapping[str, Tensor], cast: torch.dtype | None) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", cast)
        dtype = str(tensor.dtype).removeprefix("torch.")
        sha.update(f"{name}|{list(tensor.shape)}|{dtype}|".encode())
        sha.update(_bytes(tensor))
    return sha.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, in row-major order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
