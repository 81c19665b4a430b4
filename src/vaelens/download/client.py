"""How we use huggingface_hub: its settings during calls to the hub, and when a call, to any address, is repeated."""

import logging
import os
import ssl
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TypeVar

import huggingface_hub as hub
from huggingface_hub import constants

from vaelens.download.failures import error_names, library_errors
from vaelens.errors import UsageError
from vaelens.process import Shared
from vaelens.text.paths import SCARCE

# Seconds before each repetition. A hub that never answers is given up after 4 x HF_HUB_ETAG_TIMEOUT + 7 = 47 s.
WAITS = (1, 2, 4)
TEMPORARY = {"5xx", "408", "TimeoutException", "RemoteProtocolError", "ReadError"}
# A transfer: the library itself resumes it after a timeout, but not after a connection that was reset.
TEMPORARY_IN_TRANSFER = {"5xx", "408", "ReadError"}

PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}  # the variables that the library reads when it opens a session

# The library's constants for our calls. One that the user has set in the environment stays as it is.
SETTINGS = {
    # The library resumes a silent transfer five times, a second apart: 6 x 6 + 5 = 41 s. Its own 10 s make 65.
    "HF_HUB_DOWNLOAD_TIMEOUT": 6,
    # A transfer that breaks loses the chunk it was in: 1 MiB, where the library's is 10.
    "DOWNLOAD_CHUNK_SIZE": 1 << 20,
    # The Xet client knows none of these timeouts.
    "HF_HUB_DISABLE_XET": True,
}

_Result = TypeVar("_Result")


def with_retries(
    call: Callable[[], _Result],
    temporary: Iterable[str] = frozenset(TEMPORARY),
    waits: Sequence[float] = WAITS,
    received: Callable[[], int] = lambda: 0,
) -> _Result:
    """What `call` returns; it is repeated after each of `waits` while it fails for one of the `temporary` reasons.

    The waits begin again after a call that left `received()`, a number of bytes, larger than it ever was.

    Raises UsageError for proxies, certificates and a token with which no request can be made.
    """
    _open_session()
    most, left = received(), list(waits)
    while True:
        try:
            return call()
        except UnicodeEncodeError:
            raise UsageError(
                "the token for the hub, from HF_TOKEN or `hf auth login`, contains characters that a token can't have. "
                "Set it again."
            ) from None
        except library_errors() as error:
            if set(temporary).isdisjoint(error_names(error)):
                raise
            if (now := received()) > most:
                most, left = now, list(waits)
            if not left:
                raise
        time.sleep(left.pop(0))


def _open_session() -> None:
    """Raises UsageError for proxies and certificates in the environment with which the library opens no session."""
    try:
        hub.get_session()
    except OSError as error:
        path = os.environ.get("SSL_CERT_FILE")  # no folder that SSL_CERT_DIR names is refused, not even a missing one
        if not path or error.errno in SCARCE:
            raise
        why = "holds no certificates" if isinstance(error, ssl.SSLError) else f"can't be read: {error.strerror}"
        raise UsageError(
            f"SSL_CERT_FILE names {path}, which {why}. Set it to a file of certificates in PEM format, or unset it."
        ) from None
    except Exception as error:
        names = ", ".join(name for name in os.environ if name.upper() in PROXIES and os.environ[name])
        by_proxy = isinstance(error, ValueError | ImportError) or type(error).__name__ == "InvalidURL"  # httpx's
        if not (names and by_proxy):
            raise
        why = "socks needs the package socksio" if isinstance(error, ImportError) else "one of them isn't an address"
        raise UsageError(
            f"no request can be made with the proxies in {names}: {why}. Set http://host:port, or unset it."
        ) from None  # the library's message may hold a password


@contextmanager
def _changed() -> Generator[None]:
    log = logging.getLogger("huggingface_hub")
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


# The library with SETTINGS, and silent: its warnings carry addresses and come at each retry.
settings = Shared(_changed)
