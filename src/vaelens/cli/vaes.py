"""`vaelens list`: the known VAEs, with what is published about them, and the known models."""

from typing import TYPE_CHECKING

from vaelens.cli import options
from vaelens.cli.output import result, result_json, result_table, set_level

if TYPE_CHECKING:
    from vaelens.report.tables import Table

SETS = {"coco-val2017": "COCO 2017 val, 256x256, 5,000 images", "laion-aesthetics-5": "LAION-Aesthetics 5+, 10,000"}


def list_vaes(json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """List the VAEs known by name: latent space, training, and the published scores; and the models."""
    set_level(quiet, verbose)
    from vaelens.report.tables import Column, Table
    from vaelens.weights.registry import registry

    known = registry()
    if json:
        both = {"vaes": known.vaes, "models": known.models}
        result_json(
            {
                kind: {n: e.model_dump(exclude_defaults=True) for n, e in entries.items()}
                for kind, entries in both.items()
            }
        )
        return
    rows = [
        (
            name,
            entry.space,
            f"{entry.training.steps:,}" if entry.training.steps else "-",
            entry.training.part or "-",
            entry.repo or "ships with vaelens",
            entry.licence,
        )
        for name, entry in known.vaes.items()
    ]
    names = ("name", "space", "train steps", "trained", "from", "licence")
    result_table(Table(tuple(map(Column, names)), tuple(rows)))
    result("")
    spaces = tuple((name, space.used_by) for name, space in known.spaces.items())
    result_table(Table((Column("space"), Column("used by")), spaces))
    result("A VAE can replace another only inside one space.\n")
    models = tuple(
        (name, entry.space, entry.repo or "ships with vaelens", entry.licence) for name, entry in known.models.items()
    )
    result_table(Table(tuple(map(Column, ("model", "space", "from", "licence"))), models))
    result("A model makes latents of its space; --model takes any other of Stable Diffusion's kind, too.")
    for key, title in SETS.items():
        result("")
        result_table(_scores(key), title=f"As published, on {title}")
    result("\nHigher is better for PSNR (dB) and SSIM, lower for rFID and PSIM; ± is the spread over images.")
    result("The two sets can't be compared. ft-MSE has the better PSNR because of its loss, not its steps.")


def _scores(key: str) -> "Table":
    from vaelens.report.tables import Column, Table
    from vaelens.weights.registry import registry

    rows = [
        (
            entry.title,
            f"{entry.training.steps:,}" if entry.training.steps else "-",
            entry.training.loss or "-",
            f"{score.rfid:.2f}",
            f"{score.psnr:.1f} ± {score.psnr_std:.1f}",
            f"{score.ssim:.2f} ± {score.ssim_std:.2f}",
            f"{score.psim:.2f} ± {score.psim_std:.2f}",
        )
        for entry in registry().vaes.values()
        for score in entry.scores
        if score.set == key
    ]
    names = ("model", "train steps", "loss", "rFID", "PSNR", "SSIM", "PSIM")
    return Table(tuple(map(Column, names)), tuple(rows))
