"""Who may ask, and how much: Host, Origin, token and body sizes, checked before anything else looks at a request.

A page of another site that the same browser shows can send requests here. It can't read the answers, but it could
start jobs, and by DNS rebinding (its own name made to point at 127.0.0.1) it could read, too. So the Host must be
ours, a browser must say that our own page is asking, and what changes anything needs a content type that no plain
form can send.
"""

import hashlib
import hmac
import ipaddress
import json
import socket
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vaelens.errors import UsageError

JSON_BYTES = 64 * 1024
UPLOAD_BYTES = 32 * 1024 * 1024
UPLOADS = "/api/uploads"
COOKIE = "vaelens-token"
MOST_CHANGES = 32  # requests that change something and are under way at once; a person has one or two
SHORTEST_TOKEN = 16
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
WILDCARDS = {"0.0.0.0", "::"}
READING = {"GET", "HEAD"}
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True)
class Door:
    """Where the server listens, and the token that it asks for, if any."""

    host: str
    port: int
    token: str | None = None

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

    def lets_token(self, given: str) -> bool:
        """Whether this is the token."""
        return self.token is not None and _same(given, self.token)

    @property
    def cookie(self) -> str:
        """What the browser keeps instead of the token: made from it, and of no use elsewhere."""
        return hmac.new((self.token or "").encode(), b"vaelens serve", hashlib.sha256).hexdigest()


class Guard:
    """The outermost layer: refuses by a JSON sentence, and gives every answer its security headers."""

    def __init__(self, app: ASGIApp, door: Door, upload_bytes: int = UPLOAD_BYTES) -> None:
        self._app = app
        self._door = door
        self._upload_bytes = upload_bytes
        self._changes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # nobody here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        send = _secured(send)
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _answer(send, *refused)
            return
        entry = self._entering(scope)
        if entry is not None:
            await _answer(send, 303, "", entry)
            return
        receive = _limited(receive, self._limit(scope["path"]))
        if scope["method"] in READING:
            await self._app(scope, receive, send)
            return
        if self._changes >= MOST_CHANGES:
            await _answer(send, 429, "too many requests at once. Try again in a moment.", {"Retry-After": "1"})
            return
        self._changes += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._changes -= 1

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Status and sentence, where the request is refused."""
        host, origin, site = headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site")
        method = str(scope["method"])
        if len(headers.getlist("host")) != 1 or not self._door.lets_host(host):
            return 403, "this server doesn't go by that name. Open it by the address that it printed."
        if origin is not None and not self._door.lets_origin(origin, host):
            return 403, "this request comes from another site's page, and is refused."
        enters = method in READING and scope["path"] == "/"  # following a link to the page does nothing by itself
        if site not in {None, "same-origin", "none"} and not enters:
            return 403, "this request comes from another site's page, and is refused."
        if self._door.token is not None and not self._has_token(scope, headers):
            return 403, "this server wants its token. Open the address with ?token= and the token at its end."
        if method in READING:
            return None
        return self._refused_body(scope, headers, method)

    def _refused_body(self, scope: Scope, headers: Headers, method: str) -> tuple[int, str] | None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and scope["path"] == UPLOADS and not kind.startswith("image/"):
            return 415, "an upload is a picture, sent as it is with the type image/png, image/jpeg or the like."
        if method == "POST" and scope["path"] != UPLOADS and kind != "application/json":
            return 415, "send JSON, with the content type application/json."
        length, limit = headers.get("content-length", "0"), self._limit(scope["path"])
        if not length.isascii() or not length.isdigit() or len(length) > 18 or int(length) > limit:
            return 413, _too_large(limit)
        return None

    def _limit(self, path: str) -> int:
        return self._upload_bytes if path == UPLOADS else JSON_BYTES

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._door.lets_token(given.strip()):
            return True
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            kept = None
        if kept is not None and _same(kept.value, self._door.cookie):
            return True
        return self._entering(scope) is not None

    def _entering(self, scope: Scope) -> dict[str, str] | None:
        """The headers of the answer to /?token=...: a cookie, and on to the page, so that the address forgets it."""
        if scope["method"] != "GET" or scope["path"] != "/" or self._door.token is None:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not self._door.lets_token(given):
            return None
        return {"Location": "/", "Set-Cookie": f"{COOKIE}={self._door.cookie}; HttpOnly; SameSite=Strict; Path=/"}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _limited(receive: Receive, limit: int) -> Receive:
    """Counts what really comes: a length may be absent, or a lie."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, _too_large(limit), {"Connection": "close"})
        return message

    return counted


def _secured(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return with_headers


async def _answer(send: Send, status: int, sentence: str, more: dict[str, str] | None = None) -> None:
    """An answer that reads nothing of the request's body, so the connection closes with it."""
    body = json.dumps({"error": sentence}).encode() if sentence else b""
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    encoded = [(k.lower().encode(), v.encode("latin-1")) for k, v in (headers | (more or {})).items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _too_large(limit: int) -> str:
    size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit // 2**10} KiB"
    return f"that is too large: at most {size}. Make it smaller first."


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
