"""Failed downloads in one sentence: what failed, why, and what to do next.

The library's own messages never reach a user: they carry addresses, which may be signed. So we write our own,
and nothing is chained to them.
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import huggingface_hub as hub  # cheap: its parts load on first use, httpx among them
from huggingface_hub import constants

from vaelens.errors import BadInputError, NetworkError, ResourceError
from vaelens.text.numbers import counted
from vaelens.text.paths import FULL

RETRY = "Try again in a few minutes."
LOG_IN = "Accept its licence on {page}, then run `hf auth login` or set HF_TOKEN."
LOGIN_PAGE = "an HTML page came back from {host}; are you behind a login page? Log in with a browser, try again."
NOT_A_HUB = "{host} doesn't answer as the hub does. Check HF_ENDPOINT and proxies."
INCOMPLETE = f"the transfer from {{host}} was incomplete. {RETRY}"

# By an exception's name or an HTTP status, the more specific first: the reason, and what to do next.
REASONS = {
    "401": "{host} refuses access (401).",
    "403": "{host} refuses access (403).",
    "404": "not found on {host} (404).",
    "410": "it is gone from {host} (410).",
    "429": "{host} says that there were too many requests (429). Wait a few minutes.",
    "5xx": f"{{host}} has a problem and answers {{status}}. {RETRY}",
    "gaierror": "{host} can't be found (DNS). Check the network.",
    "ConnectionRefusedError": "{host} refuses the connection. Check the network.",
    "SSLError": "{host} can't prove who it is (TLS). Are you behind a login page or a company's proxy?",
    "ProxyError": "the proxy doesn't let it through. Check HTTPS_PROXY and NO_PROXY.",
    "ConnectTimeout": "{host} can't be reached: no answer to the connection. Check the network.",
    "TimeoutException": f"{{host}} accepts the connection and then stays silent, again and again. {RETRY}",
    "UnsupportedProtocol": "{host} isn't a web address: it doesn't begin with https://.",
    "ConnectError": "{host} can't be reached. Check the network.",
    "TransportError": f"the connection to {{host}} broke, again and again. {RETRY}",
}
HUB_REASONS = REASONS | {
    "GatedRepoError": f"the repository is gated. {LOG_IN}",
    "RepositoryNotFoundError": f"no such repository, or a private or gated one. Check the name; if it exists: {LOG_IN}",
    "RevisionNotFoundError": "the repository has no such revision. See {page}/tree/main for what there is.",
    "RemoteEntryNotFoundError": "there is no such file in the repository. See {page}/tree/main for what there is.",
    "401": f"access is refused (401): a wrong token, or a missing, private or gated repository. {LOG_IN}",
    "403": f"access is refused (403): your account or token may not read it. {LOG_IN}",
    "404": "not found (404). Check the name on {page}.",
    "429": "too many requests (429). Wait a few minutes; logged in (`hf auth login`) you may send more.",
}
# The hub says that a repository doesn't exist to those who may not see it.
REFUSALS = {"GatedRepoError", "RepositoryNotFoundError", "401", "403"}


@dataclass(frozen=True)
class Request:
    """A request: what an error says of its failure, its address and, on the hub, the page of the repository."""

    failure: str
    url: str
    page: str = ""


class MissingError(NetworkError):
    """The repository exists, and has no such file."""


class AccessError(NetworkError):
    """The hub refuses access: a licence to accept, a login that is missing, or no such repository."""


def library_errors() -> tuple[type[Exception], ...]:
    """What the library raises: the system's errors, and httpx's, or from its 2.0 on httpx2's."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - brings in httpx

    return OSError, cast("type[Exception]", HfHubHTTPError.__bases__[0])


def error_names(error: BaseException) -> list[str]:
    """The keys of REASONS that may apply, the more specific first: classes of a failed connection's causes and of the
    error itself, and the HTTP status.

    Names rather than classes, because they are httpx's or httpx2's.
    """
    names = [kind.__name__ for kind in type(error).__mro__]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        names += [str(status), f"{status // 100}xx"]
    cause = error.__cause__ or error.__context__
    return (error_names(cause) if cause is not None and "ConnectError" in names else []) + names


def as_network_error(error: Exception, request: Request) -> NetworkError:
    """The user's error for what the library raised, without a word of its message."""
    if type(error).__name__ == "LocalEntryNotFoundError" and isinstance(error.__cause__, Exception):
        return as_network_error(error.__cause__, request)
    if type(error) is OSError and error.errno is None:  # what the library raises for fewer bytes than announced
        return wrong_content(request, INCOMPLETE)
    names = error_names(error)
    if "ConnectError" in names and "SSLError" not in names and _by_proxy(request.url):
        names = ["ProxyError"]  # the library names the host all the same
    status = next((name for name in names if name.isdigit()), "")
    reasons = HUB_REASONS if request.page else REASONS
    reason = next(
        (reasons[name] for name in names if name in reasons), f"{{host}} fails ({status or names[0]}). {RETRY}"
    )
    kind = MissingError if "RemoteEntryNotFoundError" in names else NetworkError
    if request.page and not REFUSALS.isdisjoint(names):
        kind = AccessError
    return kind(_sentence(request, reason, status))


def wrong_content(request: Request, otherwise: str) -> NetworkError:
    """The error for an answer that isn't the file: LOGIN_PAGE where the address answers with HTML, else `otherwise`."""
    kind = ""
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    with suppress(*library_errors()), hub.get_session().stream("GET", request.url, timeout=timeout) as answer:
        kind = answer.headers.get("Content-Type", "")
    return NetworkError(_sentence(request, LOGIN_PAGE if "html" in kind else otherwise))


def _by_proxy(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")


def host(url: str) -> str:
    """The host of an address with its port, without scheme, user, password and path."""
    return urlsplit(url).netloc.rpartition("@")[2] or url.partition("/")[0]


def address(url: str) -> str:
    """An address without user, password and query, which may be a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{host(url)}{parts.path}"


def in_words(size: int | None) -> str:
    """`, 553 MB` to put after a file's name, exact below 1 MB, and empty where the size isn't known."""
    if size is None:
        return ""
    return f", {size / 1e6:.0f} MB" if size >= 1e6 else f", {counted(size, 'byte')}"


def check_room(name: str, folder: Path, needed: int, variable: str) -> None:
    """Raises ResourceError where the disk of `folder`, which needn't exist yet, has no room for that many bytes."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if (free := shutil.disk_usage(existing).free) < needed:
        raise ResourceError(
            f"Can't download {name}: {folder} has room for {free / 1e6:.0f} MB. "
            f"Free some, or set {variable} to a larger disk."
        )


def not_cached(name: str, offline: bool) -> str:
    """The sentence, without its full stop, for what isn't here and mustn't be downloaded; `offline` is --offline."""
    causes = [cause for cause, is_on in (("--offline", offline), ("HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)) if is_on]
    without = " and ".join(causes)
    return f"{name} is not in the cache and can't be downloaded with {without}. Run the command once without {without}"


def not_written(error: OSError, name: str, folder: str | Path, variable: str) -> ResourceError | BadInputError:
    """The user's error where a cache can't be written; `variable` names another folder for it."""
    where = f"{name}: not written to {folder}"
    if error.errno in FULL:
        return ResourceError(f"{where}, the disk is full. Free some room, or set {variable} to a larger disk.")
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return BadInputError(f"{where}: {reason}. Check its permissions, or set {variable}.")


def _sentence(request: Request, reason: str, status: str = "") -> str:
    said = reason.format(host=host(request.url), page=request.page, status=status)
    return f"{request.failure}: {said}" if request.failure else said
