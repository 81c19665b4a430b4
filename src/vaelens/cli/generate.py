"""`vaelens generate`: images of a prompt, by the model's own VAE or any other of its latent space."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli import generating, options
from vaelens.cli.output import progress, result, result_json, say, set_level


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the image should show.", show_default=False)],
    vae: Annotated[
        list[str] | None,
        typer.Option("--vae", metavar="VAE", help="One; by default the model's own.", show_default=False),
    ] = None,
    seed: generating.Seeds = None,
    model: generating.Model = None,
    negative: generating.Negative = None,
    steps: generating.Steps = None,
    cfg: generating.Guidance = None,
    size: generating.Size = None,
    scheduler: generating.Scheduler = None,
    no_safety_checker: generating.NoChecker = False,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="PATH", help="A .png, or a folder/ for several seeds, with the latents."
        ),
    ] = Path("image.png"),
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make an image of PROMPT a seed, with all that made it in its PNG text (`vaelens replay` makes it again).

    Example: vaelens generate "the letter R in red on white" --seed 0 -o letter.png
    """
    set_level(quiet, verbose)
    from vaelens.comparison import outcome, running
    from vaelens.errors import UsageError
    from vaelens.report.gallery import check_ours

    if vae and len(vae) > 1:
        raise UsageError("generate decodes by one VAE. For several: `vaelens compare`.")
    seeds = generating.seeds_of(seed) or [0]
    outcome.check_plain_output(output, len(set(seeds)))
    if output.suffix:
        check_ours(output.with_suffix(".run.json"), [output])
    with progress() as step:
        made = running.generate(
            prompt,
            vae[0] if vae else None,
            seeds=seeds,
            model=model,
            negative=negative,
            steps=steps,
            guidance=cfg,
            size=generating.size_of(size),
            scheduler=scheduler,
            safety_checker=not no_safety_checker,
            device=device,
            dtype=dtype,
            space=space,
            offline=offline,
            notify=say,
            progress=step,
        )
    for sentence in made.said():
        say(sentence)
    written = made.save_plain(output)
    if json:
        result_json(dict(made.record) | {"written": [str(path) for path in written]})
    else:
        for path in written:
            result(f"wrote {path}")
    if made.failure is not None:
        say("not all was finished; what was is written.")
        raise made.failure
    if made.interrupted:
        say("interrupted: what was finished is written.")
        raise typer.Exit(130)
