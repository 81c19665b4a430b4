"""Fingerprints: what a VAE is by its weights' content, whatever its file is called.

sha256 over (name, shape, dtype, bytes) of the tensors sorted by diffusers name; encoder (with quant_conv)
and decoder (with post_quant_conv) apart. The digests of the fp16 and bf16 casts stand beside it, so that
a re-typed copy is recognised.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

SHORT = 12
CASTS = {"fp16": torch.float16, "bf16": torch.bfloat16}


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
    casts = {label: _digest({n: t.to(dtype) for n, t in tensors.items()}) for label, dtype in CASTS.items()}
    return Digests(stored=_digest(tensors), **casts)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        sha.update(f"{name}|{list(tensor.shape)}|{dtype}|".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
