"""What comes out of a training: a VAE in both layouts, a report on held-out images, and a model card.

RUN/vae/                 the released weights (the running average, where there is one), diffusers' layout
RUN/vae-ldm.safetensors  the same in the LDM layout, for A1111, ComfyUI and the original code
RUN/raw/                 the last raw weights, where the released ones are an average
RUN/report/              `evaluate` on the held-out images: before, raw, released
RUN/README.md            the model card
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vaelens.evaluation.chunks import read_chunk
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate
from vaelens.files import write_atomic
from vaelens.finetuning.card import LDM_FILE, RAW_FOLDER, REPORT, VAE_FOLDER, model_card
from vaelens.finetuning.loop import Training, raw_vae, released_vae
from vaelens.images.datasets.items import Dataset
from vaelens.images.writing import from_uint8
from vaelens.runtime import silent
from vaelens.vae import VAE

CARD = "README.md"


def release(
    t: Training, before: VAE | None, record: Mapping[str, Any], networks: Mapping[str, Path], *, offline: bool
) -> tuple[VAE, Results | None]:
    """Write all of it; gives the released VAE, and the report's results on the first process.

    networks: files of the preset's metric networks, where the published ones don't serve
    """
    spec, recipe = t.spec, t.setting.recipe
    if recipe.model.trains == "all":  # the latents are others now
        scale = _scale(released_vae(t.state, t.spec), t.trained_on, t)
        spec = dataclasses.replace(spec, latent_space=None, scaling_factor=scale, shift_factor=0.0)
    tuned, raw = released_vae(t.state, spec), raw_vae(t.state, spec)
    tuned.name, raw.name = t.run.resolve().name, f"{t.run.resolve().name} (raw)"
    notes = {
        "recipe": recipe.name,
        "recipe_sha256": recipe.sha256(),
        "updates": str(t.state.updates),
        "from": before.fingerprint.short if before else "scratch",
        "seed": str(t.setting.seed),
    }
    if t.ranks.is_first:
        tuned.save(t.run / VAE_FOLDER, notes=notes)
        tuned.save(t.run / LDM_FILE, layout="ldm", notes=notes)
        if t.state.ema is not None:
            raw.save(t.run / RAW_FOLDER, notes=notes | {"weights": "raw"})
    vaes = [*([_before(before)] if before else []), *([raw] if t.state.ema is not None else []), tuned]
    results = evaluate(
        vaes, t.held_out, preset=t.instruments.preset, output=t.run / REPORT, seed=t.setting.seed, skip_bad=True,
        threads=torch.get_num_threads(), networks=networks, device=str(tuned.device), offline=offline,
        notify=silent,
    )  # fmt: skip
    if results is not None:
        write_atomic(t.run / CARD, model_card(t, before, tuned, record, results).encode())
    return tuned, results


def _before(vae: VAE) -> VAE:
    """The VAE under a name that the new one's can't be."""
    return VAE(vae.network, vae.spec, f"{vae.name} (before)", vae.fingerprint)


@torch.no_grad()
def _scale(vae: VAE, dataset: Dataset, t: Training) -> float:
    """One over the spread of the latents of images trained on, so that what a diffusion model sees has spread 1."""
    found: list[torch.Tensor] = []
    for number in range(len(dataset.items)):
        chunk = read_chunk(dataset, number, 1, t.instruments.preset, skip_bad=True)
        if chunk.items:
            found.append(vae.encode(from_uint8(chunk.pixels)).posterior.mode().flatten().double().cpu())
    return float(f"{1 / float(torch.cat(found).std()):.5g}")
