"""The model card of a training: what it is, its scores, how it was made, and which of that was published."""

from collections.abc import Mapping
from typing import Any

from vaelens.evaluation.report.exports import model_indexes
from vaelens.evaluation.report.score_tables import pairs_table, summary_table
from vaelens.evaluation.results import Results
from vaelens.finetuning.explanation import FieldNote, explain
from vaelens.finetuning.loop import Training
from vaelens.report.tables import Column, Table, table_markdown
from vaelens.vae import VAE

VAE_FOLDER, RAW_FOLDER, LDM_FILE, REPORT = "vae", "raw", "vae-ldm.safetensors", "report"

TEXT = """---
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

On {set}, none of which was trained on, by the preset `{preset}`. Differences are paired, with 95 % intervals; the whole
report is [{report}/report.html]({report}/report.html).

{scores}

{pairs}
{warnings}

## Training

{updates:,} updates of {batch} images, seed {seed}, recipe `{recipe}` (sha256 `{sha}`), from {start}. {which}

Images:

{images}

{guessed} of the recipe's {fields} fields were published by nobody, or changed: they are our choice.

{table}
"""

OWN_LATENTS = "Its latents are its own: it can't replace another VAE behind a model, and none can replace it."


def model_card(t: Training, before: VAE | None, tuned: VAE, record: Mapping[str, Any], results: Results) -> str:
    """Markdown with the hub's metadata at its head."""
    recipe, notes = t.setting.recipe, explain(t.setting.recipe)
    continued = before if recipe.model.trains == "decoder" else None
    index = model_indexes(results)
    start = f"`{before.name}` ({before.fingerprint.short})" if before else "random weights"
    sources = record["settings"]["sources"]
    return TEXT.format(
        index=[*index.values()][-1].decode().strip() if index else "",  # the released one is measured last
        name=tuned.name,
        title=recipe.title,
        about=recipe.about,
        use=_use(continued, tuned) if continued else OWN_LATENTS,
        fingerprint=tuned.fingerprint.short,
        scale=tuned.spec.scaling_factor,
        stopped=f"\n**Stopped early:** {record['stopped']}\n" if record["stopped"] else "",
        folder=t.run.name,
        vae_folder=VAE_FOLDER,
        ldm=f"For A1111 and ComfyUI: `{LDM_FILE}`." if continued else f"In the LDM layout: `{LDM_FILE}`.",
        set=results.source,
        preset=results.preset.name,
        report=REPORT,
        scores=table_markdown(summary_table(results)),
        pairs=table_markdown(pairs_table(results)) if len(results.vaes) > 1 else "",
        warnings="\n".join(f"- {warning}" for warning in results.warnings),
        updates=t.state.updates,
        batch=recipe.data.batch,
        seed=t.setting.seed,
        recipe=recipe.name,
        sha=recipe.sha256()[:12],
        start=start,
        which=" ".join(_which(t)),
        images="\n".join(
            f"- {one['name']}, weight {one['weight']:g}, manifest `{one['manifest_sha256'][:12]}`" for one in sources
        ),
        guessed=sum(note.origin != "published" for note in notes),
        fields=len(notes),
        table=table_markdown(explained(notes)),
    )


def explained(notes: list[FieldNote]) -> Table:
    """A recipe's fields, each with who says so."""
    columns = (Column("field"), Column("value"), Column("who says so"), Column("why"))
    return Table(columns, tuple((note.field, note.value, note.origin, note.why) for note in notes))


def _which(t: Training) -> list[str]:
    """Which weights these are, in sentences."""
    said = ["These are the last weights." if t.state.ema is None else "These are the running average of the weights."]
    if t.setting.recipe.gan.weight > 0 and t.state.updates <= t.setting.recipe.gan.start:
        said.append(f"The GAN, which starts after update {t.setting.recipe.gan.start}, was never heard.")
    return said


def _use(before: VAE, tuned: VAE) -> str:
    """What a decoder can replace."""
    space = f"of the latent space {tuned.spec.latent_space}" if tuned.spec.latent_space else f"like {before.name}"
    return (
        f"The encoder is that of `{before.name}`, bit for bit (in fp16, `{tuned.fingerprint.encoder.fp16[:12]}`); only "
        f"the decoder was trained. So it is a drop-in for VAEs {space}."
    )
