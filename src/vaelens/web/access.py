"""Access policy: the host names this server answers to, the origins it trusts, and its token."""

import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers

from vaelens.errors import UsageError

MIN_TOKEN_LENGTH = 16
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
WILDCARDS = {"0.0.0.0", "::"}


@dataclass(frozen=True)
class AccessPolicy:
    """The address the server listens on and the token it requires, if any.

    `session` is what a browser keeps as a cookie instead of the token. It is of no use to another server, nor to the
    next run of this one.
    """

    host: str
    port: int
    token: str | None = None
    session: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    def check(self) -> None:
        """Raises UsageError for a token that is too short, and for a missing one where other machines can connect."""
        if self.token is not None and len(self.token) < MIN_TOKEN_LENGTH:
            raise UsageError(f"a token needs at least {MIN_TOKEN_LENGTH} characters; this one has {len(self.token)}.")
        if self.token is None and not is_loopback(self.host):
            raise UsageError(
                f"--host {self.host} lets other machines connect, so it needs --token: a secret of at least "
                f"{MIN_TOKEN_LENGTH} characters. Without a token, the page is served on 127.0.0.1 only."
            )

    def allows_host(self, host: str) -> bool:
        """Whether a Host header names this server. An unknown name may have been made to point here (DNS rebinding)."""
        name, port = _split(host.lower())
        if port != self.port or not name:
            return False
        if name in LOOPBACK or name == _bracketed(self.host.lower()):
            return True
        # On a wildcard address we don't know our addresses; but unlike a name, an address can't be rebound.
        return self.host in WILDCARDS and (_is_address(name) or name == socket.gethostname().lower())

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether an Origin header is our own page, opened under this Host."""
        return origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}

    def authenticates(self, headers: Headers) -> bool:
        """Whether a request carries the token (as a bearer token) or its session cookie; True if no token is set."""
        if self.token is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(token.strip(), self.token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and _equal(cookie.value, self.session)

    def is_login(self, query: str) -> bool:
        """Whether this is the query of /?token=... with the right token."""
        return self.token is not None and _equal(parse_qs(query).get("token", [""])[0], self.token)

    @property
    def login_headers(self) -> dict[str, str]:
        """The header that gives a browser its session cookie."""
        return {"Set-Cookie": f"{self._cookie}={self.session}; HttpOnly; SameSite=Strict; Path=/"}

    @property
    def _cookie(self) -> str:
        return f"vaelens-token-{self.port}"  # browsers share cookies between all ports of a host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _equal(given: str, expected: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _split(host: str) -> tuple[str, int]:
    """Name (an IPv6 address in brackets) and port; "" if `host` isn't a valid Host header."""
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port or 80
    except ValueError:
        return "", 0
    if parts.netloc != host or "@" in host or parts.hostname is None:
        return "", 0
    return _bracketed(parts.hostname), port


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
