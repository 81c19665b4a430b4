"""Fingerprints: what a VAE is by its weights' content, whatever its file is called.

sha256 over (name, shape, dtype, bytes) of the tensors sorted by diffusers name; encoder (with quant_conv)
and decoder (with post_quant_conv) apart. The digests of the fp16 and bf16 casts stand beside it, so that
a re-typed copy is recognised.
"""

import hashlib
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

SHORT = 12

Checksum = dict[str, tuple[torch.dtype, torch.Size, int]]  # by name: dtype, shape, CRC-32 of the bytes


@dataclass(frozen=True)
class Digests:
    """Of one half of a VAE: as stored, and of its casts."""

    stored: str
    fp16: str
    bf16: str

    def is_same(self, other: "Digests") -> bool:
        """Whether both are one half, perhaps stored in other precisions."""
        return self.stored == other.stored or self.fp16 == other.fp16


@dataclass(frozen=True)
class Fingerprint:
    """Of a whole VAE, by halves: two VAEs with equal encoders speak of the same latents."""

    encoder: Digests
    decoder: Digests

    @property
    def short(self) -> str:
        """For people: the first characters of both halves' digests, `encoder-decoder`."""
        return f"{self.encoder.stored[:SHORT]}-{self.decoder.stored[:SHORT]}"

    def as_dict(self) -> dict[str, dict[str, str]]:
        """For records."""
        return asdict(self)


def fingerprint(tensors: Mapping[str, Tensor]) -> Fingerprint:
    """Of tensors under their diffusers names, on any device."""
    halves = {
        half: {name: t for name, t in tensors.items() if name.split(".")[0] in parts}
        for half, parts in (("encoder", {"encoder", "quant_conv"}), ("decoder", {"decoder", "post_quant_conv"}))
    }
    return Fingerprint(_digests(halves["encoder"]), _digests(halves["decoder"]))


def checksum(tensors: Mapping[str, Tensor]) -> Checksum:
    """What changes when the tensors do, at a tenth of a fingerprint's cost; it names nothing.

    Of the bytes, since not every change in place is counted by torch (through `.data` or NumPy it isn't).
    """
    with ThreadPoolExecutor() as pool:
        return dict(zip(tensors, pool.map(_sum, tensors.values()), strict=True))


def _sum(tensor: Tensor) -> tuple[torch.dtype, torch.Size, int]:
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
    """Of a tensor on the CPU, in its order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
