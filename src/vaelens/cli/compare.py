"""`vaelens compare`: one latent through many decoders, to a page, a sheet or a folder."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli import generating, options
from vaelens.cli.output import progress, result, result_json, result_table, say, set_level


def compare(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What the image should show.", show_default=False)
    ] = None,
    vae: generating.Vaes = None,
    seed: generating.Seeds = None,
    model: generating.Model = None,
    negative: generating.Negative = None,
    steps: generating.Steps = None,
    cfg: generating.Guidance = None,
    size: generating.Size = None,
    scheduler: generating.Scheduler = None,
    no_safety_checker: generating.NoChecker = False,
    latents: Annotated[
        Path | None,
        typer.Option("--latents", metavar="FILE", help="Start from saved latents (.safetensors).", show_default=False),
    ] = None,
    photo: Annotated[
        list[Path] | None,
        typer.Option("--photo", metavar="FILE", help="Encode a photo once. Repeatable.", show_default=False),
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Shrink larger photos first.", show_default=False),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What the page jumps to: a CSV or JSONL of id,label,left,top,right,bottom; an id is a photo's "
            "file name, or `seed 0`.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="An .html page, a .png sheet, or a folder/.")
    ] = Path("comparison.html"),
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Denoise PROMPT once a seed, decode each latent with every VAE, and show them side by side.

    Example: vaelens compare "a photo of an astronaut" --seed 0 --vae kl-f8 --vae ft-mse -o astronaut.html
    """
    set_level(quiet, verbose)
    from vaelens.comparison import outcome, running
    from vaelens.errors import UsageError
    from vaelens.report.gallery import check_ours, check_output

    if prompt is not None and not photo and Path(prompt[:255]).is_file():
        raise UsageError(f"{prompt} is a file, where the prompt should be. For a photo: --photo {prompt}.")
    inputs = [*(photo or ()), *(path for path in (latents, boxes) if path)]
    check_output(output, outcome.SHEET_NAME, inputs)
    if output.suffix:
        check_ours(output.with_suffix(".run.json"), [output])
    with progress() as step:
        done = running.compare(
            prompt,
            vae or None,
            seeds=generating.seeds_of(seed),
            model=model,
            negative=negative,
            steps=steps,
            guidance=cfg,
            size=generating.size_of(size),
            scheduler=scheduler,
            safety_checker=not no_safety_checker,
            latents=latents,
            photos=photo or (),
            max_side=max_side,
            boxes=boxes,
            device=device,
            dtype=dtype,
            space=space,
            offline=offline,
            notify=say,
            progress=step,
        )
    for sentence in done.said():
        say(sentence)
    written = done.save(output, inputs)
    if json:
        result_json(dict(done.record) | {"written": [str(path) for path in written]})
    else:
        result_table(done.table())
        for one in done.record["subjects"]:
            under = "one latent under all VAEs" if len(done.vaes) > 1 else "latent"
            result(f"{one['title']}: {under}, sha256 {one['latents_sha256']}")
        result(f"\nwrote {written[0]}" + (f" and {len(written) - 1} more beside it" if len(written) > 1 else ""))
    if done.failure is not None:
        say("not all was finished; what was is written.")
        raise done.failure
    if done.interrupted:
        say("interrupted: what was finished is written.")
        raise typer.Exit(130)
