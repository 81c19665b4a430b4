"""`vaelens identify`: what files of weights are, and which of a folder's to keep; what images say of their VAE."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, result_table

if TYPE_CHECKING:
    from vaelens.identification.images.identified_image import IdentifiedImage
    from vaelens.identification.weights.results import Identification

CLAIMS_ONLY = "Metadata are claims: anybody can write them."


@options.with_pixel_limit
def identify(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="Files of weights, or folders of them: VAEs and whole checkpoints. Or images.",
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="VAE",
            help="Compare with this VAE too: a name of `vaelens list`, a file, folder or hub id. Repeatable. "
            "Default: the known VAEs that are on this machine.",
        ),
    ] = None,
    vae: Annotated[
        list[str] | None,
        typer.Option(
            "--vae",
            metavar="VAE",
            help="Of an image: say whether this decoder reproduces its pixels. A name of `vaelens list`, a file, "
            "folder, hub id or address. Repeatable.",
        ),
    ] = None,
    device: options.Device = "auto",
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Say what files are by their content: which known VAE, in which precision and layout, or a mixture of which.

    Of an image, show which VAE its metadata claim, and with --vae measure which decoder reproduces its pixels.
    The exit code is that of the worst file: 7 for NaN in a weight, 4 for an unsafe file, 3 for a damaged one or one
    without a VAE. Example: vaelens identify models/VAE/
    """
    from vaelens.identification.identifying import identify as identify_files

    with progress() as step:
        found = identify_files(
            sources,
            against=against or (),
            vaes=vae or (),
            device=device,
            space=space,
            offline=offline,
            notify=notice,
            progress=step,
        )
    if json:
        result_json(found.as_dict())
    else:
        if found.files:
            _show_weights(found)
        _show_images(found.images, apart=bool(found.files))
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _show_weights(found: "Identification") -> None:
    from vaelens.identification.weights import tables

    if len(found) == 1:
        rows = tables.details(found.files[0])
        width = max(len(label) for label, _ in rows)
        for label, value in rows:
            result(f"{label:<{width}} {value}")
    else:
        result_table(tables.summary(found), stacked=True)
    remarks = [*tables.remarks(found)]
    if remarks:
        result()
    for sentence in remarks:
        result(sentence)


def _show_images(images: "Sequence[IdentifiedImage]", *, apart: bool) -> None:
    for number, image in enumerate(images):
        if number or apart:
            result()
        result(str(image.path))
        for line in image.lines():
            result(f"  {line}")
    if any(image.claims for image in images):
        result()
        result(CLAIMS_ONLY)
