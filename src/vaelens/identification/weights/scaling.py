"""The scaling for float16 that a file's metadata say its VAE has: what `vaelens convert --fp16-safe` writes.

It is a claim: what a file is with its scaling undone counts only where the values are then another VAE's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from vaelens.errors import VaelensError
from vaelens.families.discovery import build_network
from vaelens.identification.weights.examined_file import ReadVAE
from vaelens.networks.autoencoder_kl import MAX_EXPONENT, AutoencoderKL, AutoencoderKLConfig
from vaelens.networks.scaled_stages import Stage, scaled_tensors, stage_exponents, stages, tensor_exponents
from vaelens.weights.spec_sources import SPEC_KEY, check_types, metadata_source

Weights = Mapping[str, Tensor]

ALIKE = 0.1  # relative L2 distance of one tensor


@dataclass(frozen=True)
class Scaling:
    """The stages of a VAE in the order of execution, and by name the exponents of those that metadata tell."""

    stages: tuple[Stage, ...]
    exponents: Mapping[str, int]

    def of(self, stored: Weights, source: Weights | None = None) -> dict[str, int]:
        """The exponent n of each tensor of a half that is stored multiplied by 2^-n, where that isn't 0.

        Norms tell them, but not those of the values of attention, which no norm reads: these are taken from the
        `source` that the half is compared with, where its weights are alike but for a power of two, else they are 0.
        """
        exponents = dict(self.exponents)
        for stage in self.stages:  # what a stage's first layer reads comes before it
            layer, reads = stage.writers[0]
            name = f"{layer}.weight"
            if stage.name not in exponents:
                n = 0 if source is None or name not in stored else _doublings(stored[name], source[name])
                exponents[stage.name] = n + (0 if n == 0 or reads is None else exponents[reads.name])
        return {name: n for name, n in tensor_exponents(self.stages, exponents).items() if n and name in stored}


@dataclass(frozen=True)
class UndoneHalf:
    """A half as stored, by the exponents that were undone, and its values before they were scaled, in float32."""

    stored: Weights
    exponents: Mapping[str, int]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """By name. What is stored in half precision is multiplied in float32, where nothing is lost."""
        wide = {name: _wide(tensor) if name in self.exponents else tensor for name, tensor in self.stored.items()}
        return scaled_tensors(wide, {name: -n for name, n in self.exponents.items()})

    def is_made_from(self, source: Weights) -> bool:
        """Whether scaling and rounding the source gives what is stored, bit for bit."""
        return all(
            torch.equal(
                scaled_tensors({name: _wide(source[name])}, self.exponents)[name].to(tensor.dtype),
                tensor,
            )
            for name, tensor in self.stored.items()
        )


def claimed_scaling(vae: ReadVAE) -> Scaling | None:
    """What the file's metadata say; None where they say nothing, or what can't be of this network."""
    if vae.raw.family.config is not AutoencoderKLConfig:
        return None
    try:
        claimed = _norm_exponents(vae)
        if not claimed:
            return None
        values: dict[str, Any] = {**vae.raw.family.unseen, **vae.values, "norm_exponents": claimed}
        with torch.device("meta"):  # checks the names of norms and the exponents
            network = build_network(AutoencoderKLConfig(**values))
        found = stages(cast(AutoencoderKL, network))
        return Scaling(tuple(found), stage_exponents(found, dict(claimed)))
    except (VaelensError, ValueError):
        return None


def _norm_exponents(vae: ReadVAE) -> tuple[tuple[str, int], ...]:
    for file in vae.raw.files:
        if SPEC_KEY in file.metadata:
            source = metadata_source(file.metadata[SPEC_KEY], vae.raw.family, str(file.path))
            check_types(vae.raw.family, source, str(file.path))
            if claimed := source.values.get("norm_exponents"):
                return claimed
    return ()


def _doublings(stored: Tensor, source: Tensor) -> int:
    """The n with which 2^n times what is stored is the source, or near it; 0 where there is none."""
    mine, theirs = stored.double(), source.double()
    norms = _norm(mine), _norm(theirs)
    if not all(math.isfinite(norm) and norm > 0 for norm in norms):
        return 0
    n = round(math.log2(norms[1] / norms[0]))
    if abs(n) > MAX_EXPONENT:
        return 0
    return n if _norm(mine * 2.0**n - theirs) <= ALIKE * norms[1] else 0


def _norm(values: Tensor) -> float:
    return math.sqrt(float(values.square().sum()))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
