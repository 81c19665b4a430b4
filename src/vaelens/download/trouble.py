"""What can go wrong with a download from the hub or from elsewhere, and what to do next: the sentences they share."""

import os
import shutil
from pathlib import Path

from vaelens.errors import BadInputError, ResourceError
from vaelens.files import FULL

RETRY = "Try again in a few minutes."
HTML = "an HTML page came back instead of the file; are you behind a login page? Log in with a browser, try again."
UNREACHABLE = {  # the name of an exception, or a status: the reason, and what to do next
    "5xx": f"{{endpoint}} is in trouble and answers {{status}}. {RETRY}",
    "gaierror": "{endpoint} can't be found (DNS). {connection}",
    "ConnectionRefusedError": "{endpoint} refuses the connection. {connection}",
    "SSLError": "{endpoint} can't prove who it is (TLS). Are you behind a login page or a company's proxy?",
    "ProxyError": "the proxy doesn't let it through. Check HTTPS_PROXY and NO_PROXY.",
    "ConnectTimeout": "{endpoint} can't be reached: no answer to the connection. {connection}",
    "TimeoutException": f"{{endpoint}} accepts the connection and then stays silent, again and again. {RETRY}",
    "ConnectError": "{endpoint} can't be reached. {connection}",
    "TransportError": f"the connection to {{endpoint}} broke, again and again. {RETRY}",
}


def amount(size: int | None) -> str:
    """`, 553 MB` to put behind a file's name, exact below 1 MB, and empty where the size isn't known."""
    if size is None:
        return ""
    return f", {size / 1e6:.0f} MB" if size >= 1e6 else f", {size:,} bytes"


def check_room(what: str, folder: Path, needed: int, variable: str) -> None:
    """Raises ResourceError where the disk of `folder`, which needn't exist yet, has no room for that many bytes."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise ResourceError(
            f"{what}: not downloaded, {folder} has room for {free / 1e6:.0f} MB. "
            f"Free some, or set {variable} to a larger disk."
        )


def not_written(error: OSError, what: str, folder: str | Path, variable: str) -> ResourceError | BadInputError:
    """The user's error where a cache can't be written; `variable` is what names another folder for it."""
    where = f"{what}: not written to {folder}"
    if error.errno in FULL:
        return ResourceError(f"{where}, the disk is full. Free some room, or set {variable} to a larger disk.")
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return BadInputError(f"{where}: {reason}. Check its permissions, or set {variable}.")
