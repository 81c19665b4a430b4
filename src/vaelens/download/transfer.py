"""One try at bringing a file from one plain web address, going on where an earlier one broke.

What has come stands in a `.part` file, and beside it in a `.part.json` what it is a part of: the address, the
size, and the server's mark of that version (ETag or Last-Modified). A part is gone on with if the server
confirms the mark, or from any address if the whole's checksum is known and will be checked. The standard
library's client is used: it follows redirects and the environment's proxies, and sends no token, no cookie
and nothing from a .netrc.
"""

import json
import os
import re
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener, getproxies, proxy_bypass

from vaelens.download.trouble import HTML, RETRY, UNREACHABLE
from vaelens.files import write_atomic

TIMEOUT = 10.0  # seconds of silence, when connecting and at each read
PIECE = 1 << 18
SHOW_EVERY = 0.1  # seconds between two calls of `progress`

WHY = {  # as UNREACHABLE
    "401": "access is refused (401).",
    "403": "access is refused (403).",
    "404": "not found (404).",
    "410": "it is gone (410).",
    "429": "too many requests (429). Wait a few minutes.",
    **UNREACHABLE,
}
PASSING = {"408", "416", "5xx", "ConnectTimeout", "TimeoutException", "TransportError"}


class TransferError(Exception):
    """Why one address didn't give the file; `passing` if it may soon, `damaged` if it gave other bytes."""

    def __init__(self, why: str, *, passing: bool = False, damaged: bool = False) -> None:
        super().__init__(why)
        self.passing = passing
        self.damaged = damaged


def transfer(
    url: str,
    part: Path,
    size: int | None,
    *,
    checksummed: bool,
    begin: Callable[[int | None, int], object],
    progress: Callable[[int, int], object],
) -> bool:
    """Complete `part` from `url`; gives whether it went on with bytes of an earlier try.

    `size` is the file's where it is known, `checksummed` that the whole will be checked against a checksum.
    `begin` gets the size and how much is there already, before the first byte; `progress` how much is there
    and the size, 0 where the server doesn't say.

    Raises TransferError; OSError if the part can't be written.
    """
    have, headers = _resumable(part, url, size, checksummed)
    if have and have == _total(part):
        return True  # complete, and ended before it was checked
    with _open(url, headers, part) as answer:
        if "html" in answer.headers.get("Content-Type", "") and not urlsplit(url).path.endswith(("html", "htm")):
            raise TransferError(HTML)
        mark = _mark(answer)
        if answer.status == 206:
            where = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            total = _total(part)
            other = "If-Range" in headers and mark not in {headers["If-Range"], None}
            if other or where is None or (int(where[1]), int(where[2])) != (have, total):
                forget(part)
                raise TransferError("it changed while it was downloaded. Run it again.", passing=True)
        else:
            have, total = 0, answer.length
        if size is not None and total is not None and total != size:
            raise TransferError(f"another file: {size:,} bytes expected, {total:,} offered.", damaged=True)
        begin(total, have)
        _receive(answer, part, have, total, notes={"url": address(url), "mark": mark, "size": total}, progress=progress)
    return have > 0


def forget(part: Path) -> None:
    """Removes an unfinished file, and what was known of it."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def host(url: str) -> str:
    """Scheme and host of an address, without user, password and path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def address(url: str) -> str:
    """An address without user, password and query, which may be a signature."""
    return host(url) + urlsplit(url).path


def _receive(
    answer: HTTPResponse,
    part: Path,
    have: int,
    total: int | None,
    *,
    notes: dict[str, object],
    progress: Callable[[int, int], object],
) -> None:
    """Adds the answer's body to the first `have` bytes of the part."""
    shown = 0.0
    with part.open("ab" if have else "wb") as file:
        if not have:
            write_atomic(_notes(part), json.dumps(notes).encode())
        while piece := _read(answer):
            file.write(piece)
            have += len(piece)
            if time.monotonic() - shown >= SHOW_EVERY:
                shown = time.monotonic()
                progress(have, total or 0)
        os.fsync(file.fileno())
    if total is not None and have < total:
        raise _failed("TransportError", answer.url)
    progress(have, total or 0)


def _open(url: str, headers: dict[str, str], part: Path) -> HTTPResponse:
    request = Request(url, headers={"User-Agent": "vaelens", **headers})
    try:
        return cast("HTTPResponse", build_opener().open(request, timeout=TIMEOUT))
    except HTTPError as error:
        error.close()
        if error.code == 416:  # what is there is longer than the file is now
            forget(part)
        raise _failed(str(error.code), url) from None
    except (OSError, HTTPException) as error:
        raise _failed(_clue(error, url), url) from None


def _read(answer: HTTPResponse) -> bytes:
    """What has come by now, at most a piece; empty at the end, early or not."""
    try:
        return answer.read1(PIECE)
    except TimeoutError:
        raise _failed("TimeoutException", answer.url) from None
    except (OSError, HTTPException):
        raise _failed("TransportError", answer.url) from None


def _clue(error: Exception, url: str) -> str:
    """The key in WHY for a connection that failed, or for one that gave no answer."""
    if not isinstance(error, URLError):
        return "TimeoutException" if isinstance(error, TimeoutError) else "TransportError"
    reason = error.reason
    parts = urlsplit(url)
    if isinstance(reason, ssl.SSLError):
        return "SSLError"
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname or ""):
        return "ProxyError"
    if isinstance(reason, TimeoutError):
        return "ConnectTimeout"
    return next((k.__name__ for k in type(reason).__mro__ if k.__name__ in WHY), "ConnectError")


def _failed(clue: str, url: str) -> TransferError:
    """The error for a key of WHY or a status."""
    kind = f"{clue[0]}xx" if clue.isdigit() else clue
    why = WHY.get(clue) or WHY.get(kind) or f"{{endpoint}} fails ({clue}). {RETRY}"
    said = why.format(endpoint=host(url), status=clue, connection="Check the network.")
    return TransferError(said, passing=not PASSING.isdisjoint({clue, kind}))


def _resumable(part: Path, url: str, size: int | None, checksummed: bool) -> tuple[int, dict[str, str]]:
    """How many bytes can be kept, and the headers that ask for the others."""
    with suppress(OSError):
        have, total, mark = part.stat().st_size, _total(part), _known(part)
        if have and total and have <= total and size in {None, total}:
            if mark is not None and _note(part, "url") == address(url):
                return have, {"Range": f"bytes={have}-", "If-Range": mark}
            if checksummed:
                return have, {"Range": f"bytes={have}-"}
    return 0, {}


def _mark(answer: HTTPResponse) -> str | None:
    """The server's mark of this version of the file, if it is one that If-Range takes."""
    etag = answer.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")


def _total(part: Path) -> int | None:
    size = _note(part, "size")
    return size if isinstance(size, int) else None


def _known(part: Path) -> str | None:
    mark = _note(part, "mark")
    return mark if isinstance(mark, str) else None


def _note(part: Path, name: str) -> object:
    with suppress(OSError, ValueError, AttributeError):
        return json.loads(_notes(part).read_bytes()).get(name)
    return None


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
