"""Who may come in: the names that this server goes by, the pages that are its own, and its token."""

import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers

from vaelens.errors import UsageError

SHORTEST_TOKEN = 16
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
WILDCARDS = {"0.0.0.0", "::"}


@dataclass(frozen=True)
class Door:
    """Where the server listens, and the token that it asks for, if any.

    `session` is what a browser keeps as a cookie instead of the token: of no use elsewhere, nor to the next server.
    """

    host: str
    port: int
    token: str | None = None
    session: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    def check(self) -> None:
        """Raises UsageError for a token that is too short, and for none where others than this machine can ask."""
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise UsageError(f"a token has at least {SHORTEST_TOKEN} characters, this one {len(self.token)}.")
        if self.token is None and not is_loopback(self.host):
            raise UsageError(
                f"--host {self.host} lets other machines ask, so it needs --token, a secret of at least "
                f"{SHORTEST_TOKEN} characters. Without one the page is served on 127.0.0.1 only."
            )

    def lets_host(self, host: str) -> bool:
        """Whether a Host header names this server. A name that isn't known may have been made to point here."""
        name, port = _split(host.lower())
        if port != self.port or not name:
            return False
        if name in LOOPBACK or name == _bracketed(self.host.lower()):
            return True
        # Listening everywhere, the addresses aren't known; an address, unlike a name, can't be made to point elsewhere.
        return self.host in WILDCARDS and (_is_address(name) or name == socket.gethostname().lower())

    def lets_origin(self, origin: str, host: str) -> bool:
        """Whether an Origin header is that of our own page, which was asked for under this Host."""
        return origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}

    def lets_token(self, headers: Headers) -> bool:
        """Whether the token comes along, as a bearer's or as the cookie that stands for it; or none is needed."""
        if self.token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), self.token):
            return True
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return kept is not None and _same(kept.value, self.session)

    def lets_enter(self, query: str) -> bool:
        """Whether this is the query of /?token=... with the right token."""
        return self.token is not None and _same(parse_qs(query).get("token", [""])[0], self.token)

    @property
    def entry(self) -> dict[str, str]:
        """The header that gives a browser its cookie."""
        return {"Set-Cookie": f"{self._cookie}={self.session}; HttpOnly; SameSite=Strict; Path=/"}

    @property
    def _cookie(self) -> str:
        return f"vaelens-token-{self.port}"  # to a browser, all ports of a host have the same cookies


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _split(host: str) -> tuple[str, int]:
    """Name (an IPv6 address in brackets) and port; "" for what is no host."""
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
