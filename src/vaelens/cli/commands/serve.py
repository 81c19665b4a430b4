"""`vaelens serve`: the live page on this machine."""

import os
import secrets
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from vaelens.cli import options
from vaelens.cli.output import INTERRUPTED, is_verbose, notice, result, show_traceback


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="MODEL", help="Offer this model; it is downloaded first if needed. Repeatable."
        ),
    ] = None,
    vae: Annotated[
        list[str] | None,
        typer.Option("--vae", metavar="VAE", help="Offer this VAE; it is downloaded first if needed. Repeatable."),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on. Any but a loopback address needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port to listen on; 0 picks a free one.")] = 7861,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="SECRET",
            envvar="VAELENS_TOKEN",
            help="Secret that each request must carry. Default: a random one, unless only this machine can connect.",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Folder of the history. Default: ~/.local/share/vaelens/serve.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="Device: auto, cpu, cuda:0 ... Repeatable: each runs its own jobs. Default: auto.",
        ),
    ] = None,
    dtype: options.Dtype = "float32",
    space: options.Space = None,
    no_safety_checker: options.NoSafetyChecker = False,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
    offline: options.Offline = False,
    max_memory: options.MaxMemory = None,
) -> None:
    """Serve the web page: prompt or upload, a choice of VAEs, a queue, the viewer, the history. Ctrl-C stops it.

    The page offers the named models and VAEs, the embedded ones, and the known ones in the cache. It never downloads
    any. Example: vaelens serve --model sd-v1-4
    """
    from vaelens.runtime import Runtime, bytes_of
    from vaelens.web.access import AccessPolicy, is_loopback
    from vaelens.web.choices import collect_choices
    from vaelens.web.server import distinct_devices, prepare
    from vaelens.web.store import default_folder

    generated = token is None and not is_loopback(host)
    token = secrets.token_urlsafe(24) if generated else token
    AccessPolicy(host, port, token).check()
    devices = distinct_devices(device or ["auto"])
    if len(devices) < len(device or ["auto"]):
        notice(f"Some --device options name the same device, which runs one job at a time. Using {', '.join(devices)}.")
    runtime = Runtime(offline=offline, max_memory=bytes_of(max_memory), notify=notice).using(dtype)
    choices = collect_choices(
        model or [], vae or [], safety_checker=not no_safety_checker, space=space, runtime=runtime
    )
    server = prepare(
        choices,
        folder or default_folder(),
        host=host,
        port=port,
        token=token,
        devices=devices,
        runtime=runtime,
        space=space,
        safety_checker=not no_safety_checker,
        report=show_traceback if is_verbose() else None,
    )
    entry = server.address + (f"?token={quote(token, safe='')}" if token else "")
    result(entry if generated or not token else server.address + "?token=...")
    if token and not generated:  # the output may end up in a log, so a token of the user's own isn't printed
        notice("Open it with your token in place of the dots.")
    notice(f"Serving at {server.address} with the history in {server.store.folder} (Ctrl-C to stop)")
    if open_it:
        typer.launch(entry)
    try:
        server.serve()
    finally:
        if not server.close():
            notice("Warning: a running job could not be stopped. It is marked as interrupted.")
            os._exit(INTERRUPTED)  # its thread is inside torch, where a normal exit would abort the process
