"""Checks on every request before any route sees it: Host, Origin, token, content type, body size and time limits.

A page of another site open in the same browser can send requests here. It can't read the responses, but it could start
jobs; and by DNS rebinding (its own name made to point at 127.0.0.1) it could read them too. So the Host must be ours,
the browser must say that our own page sent the request, and every request that changes something needs a content type
that no HTML form can send.
"""

import asyncio
import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vaelens.web.access import AccessPolicy

MAX_JSON_BYTES = 64 * 1024
MAX_UPLOAD_BYTES = 32 * 1024 * 1024
JSON_TIMEOUT = 10.0  # seconds for a whole JSON body
UPLOAD_PAUSE = 10.0  # seconds between two parts of an upload
UPLOADS = "/api/uploads"
MAX_CHANGES = 32  # concurrent requests that change something; a person has one or two
SAFE_METHODS = {"GET", "HEAD"}
TOO_SLOW = "the request body took too long to arrive. Try again."
OTHER_SITE = "this request comes from another site's page, and is refused."
# After a link from another site, a browser stores a SameSite=Strict cookie but sends it only with requests of our own
# page. A redirect would still count as the other site's request; a page that reloads itself doesn't.
LOGIN_PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/">
<title>vaelens</title><p><a href="/">vaelens</a></p></html>
"""
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class SecurityMiddleware:
    """The outermost ASGI layer: refuses with a JSON error, and adds the security headers to every response."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy, max_upload_bytes: int = MAX_UPLOAD_BYTES) -> None:
        self._app = app
        self._policy = policy
        self._max_upload_bytes = max_upload_bytes
        self._changes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no WebSockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        send = _with_security_headers(send)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _send_error(send, *refusal)
        elif self._is_login(scope):
            html = {"Content-Type": "text/html; charset=utf-8"}
            await _send_bytes(send, 200, LOGIN_PAGE, html | self._policy.login_headers)
        elif scope["method"] in SAFE_METHODS:
            await self._app(scope, _limited(receive, MAX_JSON_BYTES), send)
        elif scope["path"] == UPLOADS:
            await self._change(scope, _limited(receive, self._max_upload_bytes, UPLOAD_PAUSE), send)
        else:
            try:  # read the whole body before counting the request: clients that send nothing must not block others
                async with asyncio.timeout(JSON_TIMEOUT):
                    body = await _whole_body(_limited(receive, MAX_JSON_BYTES))
            except TimeoutError:
                await _send_error(send, 408, TOO_SLOW)
            except HTTPException as error:
                await _send_error(send, error.status_code, error.detail)
            else:
                if body["type"] == "http.request":  # otherwise the client has gone
                    await self._change(scope, _replayed(body, receive), send)

    async def _change(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._changes >= MAX_CHANGES:
            await _send_error(send, 429, "too many requests at once. Try again in a moment.", {"Retry-After": "1"})
            return
        self._changes += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._changes -= 1

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Status and message, if the request is refused."""
        host, origin, site = headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site")
        method = str(scope["method"])
        if len(headers.getlist("host")) != 1 or not self._policy.allows_host(host):
            return 403, "this server doesn't answer to that host name. Open the address that it printed."
        if origin is not None and not self._policy.allows_origin(origin, host):
            return 403, OTHER_SITE
        opens_page = method in SAFE_METHODS and scope["path"] == "/"  # following a link to the page changes nothing
        if site not in {None, "same-origin", "none"} and not opens_page:
            return 403, OTHER_SITE
        if not self._policy.authenticates(headers) and not self._is_login(scope):
            return 403, "this server requires its token. Open the address with ?token=<the token> at its end."
        if method in SAFE_METHODS:
            return None
        return self._refusal_of_body(scope, headers, method)

    def _refusal_of_body(self, scope: Scope, headers: Headers, method: str) -> tuple[int, str] | None:
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and scope["path"] == UPLOADS and not content_type.startswith("image/"):
            return 415, "send an image as the body, with the content type image/png, image/jpeg or the like."
        if method == "POST" and scope["path"] != UPLOADS and content_type != "application/json":
            return 415, "send JSON, with the content type application/json."
        length, limit = headers.get("content-length", "0"), self._limit(scope["path"])
        if not length.isascii() or not length.isdigit() or len(length) > 18 or int(length) > limit:
            return 413, _too_large(limit)
        return None

    def _limit(self, path: str) -> int:
        return self._max_upload_bytes if path == UPLOADS else MAX_JSON_BYTES

    def _is_login(self, scope: Scope) -> bool:
        """Whether this is /?token=... with the right token, which the address then drops."""
        return (scope["method"], scope["path"]) == ("GET", "/") and self._policy.is_login(
            scope["query_string"].decode("latin-1")
        )


def _limited(receive: Receive, limit: int, pause: float | None = None) -> Receive:
    """Counts the bytes that arrive, as Content-Length may be absent or wrong; waits at most `pause` s for each part."""
    seen, ended = 0, False

    async def counted() -> Message:
        nonlocal seen, ended
        try:
            async with asyncio.timeout(None if ended else pause):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, TOO_SLOW, {"Connection": "close"}) from error
        if message["type"] == "http.request":
            seen, ended = seen + len(message.get("body", b"")), not message.get("more_body", False)
            if seen > limit:
                raise HTTPException(413, _too_large(limit), {"Connection": "close"})
        return message

    return counted


async def _whole_body(receive: Receive) -> Message:
    """The whole body as one message; or the message that the client has disconnected."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return {"type": "http.request", "body": body, "more_body": False}


def _replayed(first: Message, receive: Receive) -> Receive:
    """Gives that message, then whatever follows it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return first

    return replay


def _with_security_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return with_headers


async def _send_error(send: Send, status: int, message: str, headers: dict[str, str] | None = None) -> None:
    body = json.dumps({"error": message}).encode()
    await _send_bytes(send, status, body, {"Content-Type": "application/json"} | (headers or {}))


async def _send_bytes(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    """A response that leaves the request's body unread, so it closes the connection."""
    headers = {"Content-Length": str(len(body)), "Connection": "close"} | headers
    encoded = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _too_large(limit: int) -> str:
    size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit // 2**10} KiB"
    return f"the request body is too large: at most {size}. Make it smaller first."
