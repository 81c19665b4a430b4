"""Asking the hub: how patiently, and its refusals in our words.

What the library raises never reaches a user: such messages carry addresses, which may be signed, so ours
are written anew and nothing is chained to them.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar, cast
from urllib.parse import urlsplit

import huggingface_hub as hub  # cheap: its parts load on first use, httpx among them
from huggingface_hub import constants

from vaelens.download.trouble import HTML, RETRY, UNREACHABLE, not_written
from vaelens.errors import NetworkError, VaelensError

# How long a hub in trouble is asked again where no cached copy can stand in: one that never answers is
# asked twice, HF_HUB_ETAG_TIMEOUT (10 s) each; one that answers 503 five times within 15 s.
PATIENCE = 20

# The library's constants for our calls. One that the user has set in the environment stays as it is.
SETTINGS = {
    # A silent transfer is taken up again five times, a second apart: 6 x 6 + 5 = 41 s. The library's 10 s make 65.
    "HF_HUB_DOWNLOAD_TIMEOUT": 6,
    # A transfer that breaks loses the chunk it was in: 1 MiB, where the library's is 10.
    "DOWNLOAD_CHUNK_SIZE": 1 << 20,
    # The Xet client knows none of these timeouts.
    "HF_HUB_DISABLE_XET": True,
}

CONNECTION = "Check the network; a file downloaded elsewhere can be named by its path."
LOG_IN = "Accept its licence on {page}, then run `hf auth login` or set HF_TOKEN."
WHY = {  # as UNREACHABLE
    "GatedRepoError": f"the repository is gated. {LOG_IN}",
    "RepositoryNotFoundError": f"no such repository, or a private or gated one. Check the name; if it exists: {LOG_IN}",
    "RevisionNotFoundError": "the repository has no such revision. See {page}/tree/main for what there is.",
    "RemoteEntryNotFoundError": "there is no such file in the repository. See {page}/tree/main for what there is.",
    "401": f"the hub refuses access (401): a wrong token, or a missing, private or gated repository. {LOG_IN}",
    "403": f"the hub refuses access (403): your account or token may not read it. {LOG_IN}",
    "404": "not found (404). Check the name on {page}.",
    "429": "the hub answers 429, too many requests. Wait a few minutes; logged in (`hf auth login`) you may ask more.",
    "UnsupportedProtocol": "{endpoint} is no web address. HF_ENDPOINT should begin with https://.",
    **UNREACHABLE,
}
IMPOSTOR = "{endpoint} doesn't answer as the hub does. Check HF_ENDPOINT and proxies."
PASSING = {"5xx", "408", "TimeoutException", "RemoteProtocolError", "ReadError"}

_one_at_a_time = threading.Lock()  # a download in a process, since the constants are the process's
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Asked:
    """What the hub is asked for: its name in errors, the repository's page, and the address."""

    what: str
    page: str
    url: str


class MissingError(NetworkError):
    """The repository is there, and has no such file."""


def patiently(ask: Callable[[], _Answer], patience: float) -> _Answer:
    """What `ask` gives, called again for `patience` seconds while the trouble may pass."""
    give_up, wait = time.monotonic() + patience, 1.0
    while True:
        try:
            return ask()
        except failures() as error:
            if PASSING.isdisjoint(clues(error)) or time.monotonic() + wait > give_up:
                raise
        time.sleep(wait)
        wait *= 2


@contextmanager
def settings() -> Generator[None]:
    """The library as SETTINGS has it, and silent: its warnings carry addresses and come at each retry."""
    log = logging.getLogger("huggingface_hub")
    with _one_at_a_time:
        before = {name: getattr(constants, name) for name in SETTINGS if not os.environ.get(name)}
        level = log.level
        try:
            log.setLevel(logging.CRITICAL)
            for name in before:
                setattr(constants, name, SETTINGS[name])
            yield
        finally:
            log.setLevel(level)
            for name, value in before.items():
                setattr(constants, name, value)


def failures() -> tuple[type[Exception], ...]:
    """What the library raises: the system's errors, and httpx's, or from its 2.0 on httpx2's."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - brings in httpx

    return OSError, cast("type[Exception]", HfHubHTTPError.__bases__[0])


def explained(error: Exception, asked: Asked) -> VaelensError:
    """The user's error for what the library raised, without a word of its message."""
    if type(error).__name__ == "LocalEntryNotFoundError" and isinstance(error.__cause__, Exception):
        return explained(error.__cause__, asked)
    if isinstance(error, OSError) and error.errno is not None:
        return not_written(error, asked.what, constants.HF_HUB_CACHE, "HF_HUB_CACHE")
    if type(error) is OSError:  # the library's word for another number of bytes than announced
        return impostor(asked, f"the transfer from {{endpoint}} was incomplete. {RETRY}")
    names = clues(error)
    status = next((clue for clue in names if clue.isdigit()), "")
    why = next((WHY[clue] for clue in names if clue in WHY), f"{{endpoint}} fails ({status or names[0]}). {RETRY}")
    kind = MissingError if "RemoteEntryNotFoundError" in names else NetworkError
    return kind(_sentence(asked, why, status))


def impostor(asked: Asked, otherwise: str = IMPOSTOR) -> NetworkError:
    """For something that isn't the file: looks whether it is a web page, as behind a hotel's login page."""
    kind = ""
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    with suppress(*failures()), hub.get_session().stream("GET", asked.url, timeout=timeout) as answer:
        kind = answer.headers.get("Content-Type", "")
    return NetworkError(_sentence(asked, HTML if "html" in kind else otherwise))


def clues(error: BaseException) -> list[str]:
    """Names to look up in WHY: of a failed connection's causes, of the error's kinds, its status; telling ones first.

    Names rather than classes, because they are httpx's or httpx2's.
    """
    own = [kind.__name__ for kind in type(error).__mro__]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        own += [str(status), f"{status // 100}xx"]
    cause = error.__cause__ or error.__context__
    return (clues(cause) if cause is not None and "ConnectError" in own else []) + own


def endpoint() -> str:
    """Where the hub is, without the user and password that HF_ENDPOINT may carry."""
    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _sentence(asked: Asked, why: str, status: str = "") -> str:
    words = why.format(endpoint=endpoint(), page=asked.page, status=status, connection=CONNECTION)
    return f"{asked.what}: {words}"
