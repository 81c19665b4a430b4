"""`vaelens list`: the known VAEs, with what is published about them, and the known models."""

from typing import TYPE_CHECKING

from vaelens.cli import options
from vaelens.cli.output import result, result_json, result_table

if TYPE_CHECKING:
    from vaelens.report.tables import Table
    from vaelens.weights.registry import Entry

DATASETS = {"coco-val2017": "COCO 2017 val, 256x256, 5,000 images", "laion-aesthetics-5": "LAION-Aesthetics 5+, 10,000"}


def list_vaes(json: options.Json = False) -> None:
    """List the known VAEs with latent space, training and published scores, and the known models."""
    from vaelens.report.tables import Column, Table
    from vaelens.weights.registry import registry

    known = registry()
    if json:
        from vaelens.weights.recorded_contents import known_fingerprint

        both = {"vaes": known.vaes, "models": known.models}
        found = {
            kind: {n: e.model_dump(exclude_defaults=True) for n, e in entries.items()} for kind, entries in both.items()
        }
        for name, values in found["vaes"].items():
            known_one = known_fingerprint(name)
            values["fingerprint"] = "not yet recorded" if known_one is None else known_one.as_dict()
        result_json(found)
        return
    rows = [
        (name, entry.space, _steps(entry), entry.training.part or "-", entry.repo or "embedded", entry.licence)
        for name, entry in known.vaes.items()
    ]
    names = ("VAE", "latent space", "training steps", "trained part", "source", "licence")
    result_table(Table(tuple(map(Column, names)), tuple(rows)))
    result()
    spaces = tuple((name, space.used_by) for name, space in known.spaces.items())
    result_table(Table((Column("latent space"), Column("diffusion models")), spaces))
    result("A VAE can only replace one of the same latent space.")
    result()
    models = tuple((name, entry.space, entry.repo or "embedded", entry.licence) for name, entry in known.models.items())
    result_table(Table(tuple(map(Column, ("model", "latent space", "source", "licence"))), models))
    result("--model also takes any other Stable Diffusion 1.x, 2.x or XL: a hub id, a folder or a checkpoint file.")
    for key, title in DATASETS.items():
        result()
        result_table(_scores(key), title=f"Published scores on {title}")
    result()
    result("Higher is better for PSNR (dB) and SSIM, lower for rFID and PSIM; ± is the standard deviation over images.")
    result(
        "Scores on the two datasets can't be compared. ft-mse has the better PSNR because of its loss, not its steps."
    )


def _steps(entry: "Entry") -> str:
    return f"{entry.training.steps:,}" if entry.training.steps else "-"


def _scores(key: str) -> "Table":
    from vaelens.report.tables import Column, Table
    from vaelens.weights.registry import registry

    rows = [
        (
            name,
            _steps(entry),
            entry.training.loss or "-",
            f"{score.rfid:.2f}",
            f"{score.psnr:.1f} ± {score.psnr_std:.1f}",
            f"{score.ssim:.2f} ± {score.ssim_std:.2f}",
            f"{score.psim:.2f} ± {score.psim_std:.2f}",
        )
        for name, entry in registry().vaes.items()
        for score in entry.scores
        if score.set == key
    ]
    names = ("VAE", "training steps", "loss", "rFID", "PSNR", "SSIM", "PSIM")
    return Table(tuple(map(Column, names)), tuple(rows))
