"""`vaelens generate`: images of a prompt, by the model's own VAE or any other of its latent space."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vaelens.cli import options
from vaelens.cli.output import exit_if_interrupted, notice, progress, result, result_json


@options.with_runtime_options
@options.with_sampling_options
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the image should show.")],
    vae: Annotated[
        list[str] | None,
        typer.Option(
            "--vae",
            metavar="VAE",
            help="A name of `vaelens list`, a file, folder, hub id or address. Default: the model's own.",
        ),
    ] = None,
    seed: options.Seeds = None,
    model: options.Model = None,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="PATH", help="A .png file; for several seeds a folder, with the latents."
        ),
    ] = Path("image.png"),
    json: options.Json = False,
    **shared: Any,
) -> None:
    """Make one image of PROMPT per seed. Its PNG holds all settings, so that `vaelens replay` can make it again.

    Example: vaelens generate "the letter R in red on white" --seed 0 -o letter.png
    """
    from vaelens.comparison import results, workflow
    from vaelens.errors import UsageError

    if vae and len(vae) > 1:
        raise UsageError(f"generate decodes with one VAE, but {len(vae)} are named. For several: `vaelens compare`.")
    seeds = options.seeds_of(seed) or [0]
    results.check_plain_output(output, len(set(seeds)))
    with progress() as step:
        done = workflow.generate(
            prompt,
            vae[0] if vae else None,
            seeds=seeds,
            model=model,
            notify=notice,
            progress=step,
            **shared,
        )
    for warning in done.warnings():
        notice(f"Warning: {warning}")
    written = done.save_plain(output)
    if json:
        result_json(dict(done.record) | {"written": [str(path) for path in written]})
    else:
        for path in written:
            result(f"wrote {path}")
    exit_if_interrupted(done.interrupted, done.failure)
