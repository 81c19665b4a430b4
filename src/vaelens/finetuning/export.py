"""What a training releases: the VAE in both layouts, a report on held-out images, and a model card.

RUN/vae/                 the released weights (EMA, where there is one), diffusers layout
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

from vaelens.evaluation.report.exports import model_indexes
from vaelens.evaluation.report.score_tables import pairs_table, summary_table
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate
from vaelens.files import write_atomic
from vaelens.finetuning.loop import Training, raw_vae, released_vae
from vaelens.finetuning.recipe import FieldNote, explain
from vaelens.images.writing import from_uint8
from vaelens.report.tables import Column, Table, table_markdown
from vaelens.runs.outputs import RECORD_NAME, begin_outputs
from vaelens.runtime import silent
from vaelens.vae import VAE
from vaelens.weights.folders import WEIGHT_NAMES

VAE_FOLDER, RAW_FOLDER, LDM_FILE, REPORT, MODEL_CARD = "vae", "raw", "vae-ldm.safetensors", "report", "README.md"

VAE_FILES = (WEIGHT_NAMES[0], "config.json")
OUTPUTS = (  # what run.json lists; the report has a record of its own
    *(f"{folder}/{name}" for folder in (VAE_FOLDER, RAW_FOLDER) for name in VAE_FILES), LDM_FILE, MODEL_CARD,
)  # fmt: skip

CARD_TEXT = """---
library_name: diffusers
tags: [vae, autoencoder]
{index}
---

# {name}

{title}. {about}

{use} Fingerprint `{fingerprint}`, scaling factor {scale}.
{stopped}
```python
import vaelens as vl
vae = vl.load("{folder}")
```

In diffusers: `AutoencoderKL.from_pretrained("{folder}", subfolder="{vae_folder}")`. {ldm}

## Scores

On {dataset}, none of which was trained on, with the preset `{preset}`. Differences are paired, with 95 % intervals; the
full report is [{report}/report.html]({report}/report.html).

{scores}

{pairs}
{warnings}

## Training

{steps:,} steps with a batch size of {batch_size}, seed {seed}, recipe `{recipe}` (sha256 `{sha}`), from {start}.
{weights}

Images:

{images}

{chosen} of {fields} fields are our choice (never published, or changed){unused}.

{table}
"""

OWN_LATENTS = "It has a latent space of its own, so it can't replace another VAE behind a diffusion model."


def release(
    t: Training, before: VAE | None, record: Mapping[str, Any], networks: Mapping[str, Path], *, offline: bool
) -> tuple[VAE, Results | None]:
    """Write everything; gives the released VAE and, on the first process, the report's results.

    networks: files of the preset's metric networks, where given
    """
    spec, recipe, path = t.spec, t.config.recipe, t.folder.path
    name = path.resolve().name
    if recipe.model.trainable == "all":  # the latent space has changed
        spec = dataclasses.replace(spec, latent_space=None, scaling_factor=_scaling_factor(t), shift_factor=0.0)
    tuned, raw = released_vae(t, spec), raw_vae(t, spec)
    tuned.name, raw.name = name, f"{name} (raw)"
    notes = {
        "recipe": recipe.name,
        "recipe_sha256": recipe.sha256(),
        "steps": str(t.state.step),
        "from": before.fingerprint.short if before else "scratch",
        "seed": str(t.config.seed),
    }
    if t.ranks.is_first:
        begin_outputs(path / RECORD_NAME, {**record, "stopped": None}, OUTPUTS)  # it isn't until all is written
        tuned.save(path / VAE_FOLDER, notes=notes)
        tuned.save(path / LDM_FILE, layout="ldm", notes=notes)
        if t.state.ema is not None:
            raw.save(path / RAW_FOLDER, notes=notes | {"weights": "raw"})
    vaes = [raw, tuned] if t.state.ema is not None else [tuned]
    if before:  # under a name that differs from the new VAE's
        vaes.insert(0, before.named(f"{before.name} (before)"))
    results = evaluate(
        vaes, t.held_out, preset=t.preset.preset, output=path / REPORT, seed=t.config.seed, skip_bad=True,
        threads=torch.get_num_threads(), networks=networks, device=str(tuned.device), offline=offline,
        notify=silent,
    )  # fmt: skip
    if results is not None:
        write_atomic(path / MODEL_CARD, model_card(t, before, tuned, record, results).encode())
    return tuned, results


@torch.no_grad()
def _scaling_factor(t: Training) -> float:
    """1 / the standard deviation of training images' latents, so that a diffusion model sees unit variance."""
    vae = released_vae(t, t.spec)
    found = [
        vae.encode(from_uint8(chunk.pixels)).posterior.mode().flatten().double().cpu()
        for chunk in t.training_sample.read(t.preset.preset)
    ]
    return float(f"{1 / float(torch.cat(found).std()):.5g}")


def model_card(t: Training, before: VAE | None, tuned: VAE, record: Mapping[str, Any], results: Results) -> str:
    """Markdown with the hub's metadata at its head."""
    recipe, notes = t.config.recipe, explain(t.config.recipe)
    continued = before if recipe.model.trainable == "decoder" else None
    index = model_indexes(results)
    return CARD_TEXT.format(
        index=[*index.values()][-1].decode().strip() if index else "",  # the released VAE is the last one
        name=tuned.name,
        title=recipe.title,
        about=recipe.about,
        use=_use(continued, tuned) if continued else OWN_LATENTS,
        fingerprint=tuned.fingerprint.short,
        scale=tuned.spec.scaling_factor,
        stopped=f"\n**Stopped early:** {record['stopped']}\n" if record["stopped"] else "",
        folder=t.folder.path.name,
        vae_folder=VAE_FOLDER,
        ldm=f"For A1111 and ComfyUI: `{LDM_FILE}`." if continued else f"In the LDM layout: `{LDM_FILE}`.",
        dataset=results.source,
        preset=results.preset.name,
        report=REPORT,
        scores=table_markdown(summary_table(results)),
        pairs=table_markdown(pairs_table(results)) if len(results.vaes) > 1 else "",
        warnings="\n".join(f"- {warning}" for warning in results.warnings),
        steps=t.state.step,
        batch_size=recipe.data.batch_size,
        seed=t.config.seed,
        recipe=recipe.name,
        sha=recipe.sha256()[:12],
        start=f"`{before.name}` ({before.fingerprint.short})" if before else "random weights",
        weights=" ".join(_weights(t)),
        images="\n".join(
            f"- {one['name']}, weight {one['weight']:g}, manifest `{one['manifest_sha256'][:12]}`"
            for one in record["settings"]["sources"]
        ),
        chosen=sum(note.origin in ("our choice", "unexplained") for note in notes),
        fields=len(notes),
        unused=f"; {unused} are unused" if (unused := sum(note.origin == "unused" for note in notes)) else "",
        table=table_markdown(recipe_table(notes)),
    )


def recipe_table(notes: list[FieldNote]) -> Table:
    """A recipe's fields with their values and where these come from."""
    columns = (Column("field"), Column("value"), Column("origin"), Column("why"))
    return Table(columns, tuple((note.field, note.value, note.origin, note.why) for note in notes))


def _weights(t: Training) -> list[str]:
    """Which weights were released, in sentences."""
    gan = t.config.recipe.gan
    sentences = ["These are the last weights." if t.state.ema is None else "These are EMA weights."]
    if gan.weight > 0 and t.state.step <= gan.start:
        sentences.append(f"The GAN, which starts after step {gan.start}, was never used.")
    return sentences


def _use(before: VAE, tuned: VAE) -> str:
    """Which VAEs a decoder can replace."""
    space = f"of the latent space {tuned.spec.latent_space}" if tuned.spec.latent_space else f"like {before.name}"
    return (
        f"The encoder is that of `{before.name}`, bit for bit (in fp16, `{tuned.fingerprint.encoder.fp16[:12]}`); only "
        f"the decoder was trained. So it is a drop-in for VAEs {space}."
    )
