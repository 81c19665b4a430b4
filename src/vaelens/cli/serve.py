"""`vaelens serve`: the live page on this machine."""

import os
import secrets
import traceback
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from vaelens.cli import generating, options
from vaelens.cli.output import result, say, set_level

INTERRUPTED = 130


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="MODEL", help="Offer it; downloaded now if need be. Repeatable.", show_default=False
        ),
    ] = None,
    vae: Annotated[
        list[str] | None,
        typer.Option(
            "--vae", metavar="VAE", help="Offer it; downloaded now if need be. Repeatable.", show_default=False
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen. Other than this machine's own has a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="0 takes a free one.")] = 7861,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="SECRET",
            envvar="VAELENS_TOKEN",
            help="Whoever asks must know it; where others can ask, one is made if none is named.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="For the history; by default ~/.local/share/vaelens/serve.", show_default=False
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda:0 ... Repeatable: each works by itself."),
    ] = None,
    dtype: options.Dtype = "float32",
    space: options.Space = None,
    no_safety_checker: generating.NoChecker = False,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Serve the page: prompt or upload, VAEs to tick, a queue, the viewer, the history. Ctrl-C ends it.

    Offered are the models and VAEs that are named, those that ship with vaelens, and the known ones that are in the
    cache already. Nothing is downloaded on the page's word. Example: vaelens serve --model sd-v1-4
    """
    set_level(quiet, verbose)
    from vaelens.runtime import Runtime
    from vaelens.web.choices import settle
    from vaelens.web.door import Door, is_loopback
    from vaelens.web.serving import distinct, prepare
    from vaelens.web.store import default_folder

    made = token is None and not is_loopback(host)
    token = secrets.token_urlsafe(24) if made else token
    Door(host, port, token).check()
    devices = distinct(device or ["auto"])
    if len(devices) < len(device or ["auto"]):
        say(f"Some --device are the same one, which does one job at a time; used: {', '.join(devices)}.")
    choices = settle(
        model or [],
        vae or [],
        guard=not no_safety_checker,
        space=space,
        runtime=Runtime(dtype_name=dtype, offline=offline, notify=say),
    )
    running = prepare(
        choices,
        folder or default_folder(),
        host=host,
        port=port,
        token=token,
        devices=devices,
        dtype=dtype,
        space=space,
        guard=not no_safety_checker,
        report=traceback.print_exception if verbose else None,
    )
    entry = running.address + (f"?token={quote(token, safe='')}" if token else "")
    result(entry if made or not token else running.address + "?token=...")
    if token and not made:  # it may be written down in a log, where whoever named it doesn't expect it
        say("Open it with the token that you named in place of the dots.")
    say(f"The history lies in {running.store.folder}. Ctrl-C ends the server.")
    if open_it:
        typer.launch(entry)
    try:
        running.serve()
    finally:
        if not running.close():
            say("what was at work could not be ended; a job that ran is marked as interrupted.")
            os._exit(INTERRUPTED)  # its thread is inside torch, where an ordinary end would abort the process
