"""Fingerprints: what a VAE is by its weights' content, whatever its file is called.

sha256 over (name, shape, dtype, bytes) of the tensors sorted by diffusers name; encoder (with quant_conv)
and decoder (with post_quant_conv) apart. The digests of the fp16 and bf16 casts stand beside it, so that
a re-typed copy is recognised.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

SHORT = 12


@dataclass(frozen=True)
class Digests:
    """Of one half of a VAE: as stored, and of its casts."""

    stored: str
    fp16: str
    bf16: str


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


def _digests(tensors: Mapping[str, Tensor]) -> Digests:
    with ThreadPoolExecutor() as pool:  # hashing and casting leave the interpreter free
        jobs = [pool.submit(_digest, tensors, cast) for cast in (None, torch.float16, torch.bfloat16)]
    return Digests(*(job.result() for job in jobs))


def _digest(tensors: Mapping[str, Tensor], cast: torch.dtype | None) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", cast).contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        sha.update(f"{name}|{list(tensor.shape)}|{dtype}|".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
