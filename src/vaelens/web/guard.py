"""What every request must pass: Host, Origin, token, content type, body size and patience, before anything else looks.

A page of another site that the same browser shows can send requests here. It can't read the answers, but it could
start jobs, and by DNS rebinding (its own name made to point at 127.0.0.1) it could read, too. So the Host must be
ours, a browser must say that our own page is asking, and what changes anything needs a content type that no plain
form can send.
"""

import asyncio
import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vaelens.web.door import Door

JSON_BYTES = 64 * 1024
UPLOAD_BYTES = 32 * 1024 * 1024
JSON_PATIENCE = 10.0  # seconds in which JSON has to come
SILENCE = 10.0  # seconds for which an upload may pause
UPLOADS = "/api/uploads"
MOST_CHANGES = 32  # requests that change something and are under way at once; a person has one or two
READING = {"GET", "HEAD"}
TOO_SLOW = "that took too long to come. Try again."
# A browser keeps a SameSite=Strict cookie from a page that another site's link led to, but sends it only with what our
# own page asks for: so a page goes on to the next, where a redirect would still count as the other site's request.
ENTRY = b"""<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/">
<title>vaelens</title><p><a href="/">vaelens</a></p></html>
"""
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
        elif self._enters(scope):
            await _answer_bytes(send, 200, ENTRY, {"Content-Type": "text/html; charset=utf-8"} | self._door.entry)
        elif scope["method"] in READING:
            await self._app(scope, _limited(receive, JSON_BYTES), send)
        elif scope["path"] == UPLOADS:
            await self._change(scope, _limited(receive, self._upload_bytes, SILENCE), send)
        else:
            try:  # all of it before it takes a place: who sends nothing must not lock others out
                async with asyncio.timeout(JSON_PATIENCE):
                    come = await _whole(_limited(receive, JSON_BYTES))
            except TimeoutError:
                await _answer(send, 408, TOO_SLOW)
            except HTTPException as error:
                await _answer(send, error.status_code, error.detail)
            else:
                if come["type"] == "http.request":  # else nobody is there to answer
                    await self._change(scope, _replayed(come, receive), send)

    async def _change(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        if not self._door.lets_token(headers) and not self._enters(scope):
            return 403, "this server wants its token. Open the address with ?token= and the token at its end."
        if method in READING:
            return None
        return self._refused_body(scope, headers, method)

    def _refused_body(self, scope: Scope, headers: Headers, method: str) -> tuple[int, str] | None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and scope["path"] == UPLOADS and not kind.startswith("image/"):
            return 415, "an upload is an image, sent as it is with the type image/png, image/jpeg or the like."
        if method == "POST" and scope["path"] != UPLOADS and kind != "application/json":
            return 415, "send JSON, with the content type application/json."
        length, limit = headers.get("content-length", "0"), self._limit(scope["path"])
        if not length.isascii() or not length.isdigit() or len(length) > 18 or int(length) > limit:
            return 413, _too_large(limit)
        return None

    def _limit(self, path: str) -> int:
        return self._upload_bytes if path == UPLOADS else JSON_BYTES

    def _enters(self, scope: Scope) -> bool:
        """Whether this is the right /?token=..., after which the address forgets it."""
        return (scope["method"], scope["path"]) == ("GET", "/") and self._door.lets_enter(
            scope["query_string"].decode("latin-1")
        )


def _limited(receive: Receive, limit: int, silence: float | None = None) -> Receive:
    """Counts what really comes, as a length may be absent, or a lie; waits for each part no longer than `silence`."""
    seen, ended = 0, False

    async def counted() -> Message:
        nonlocal seen, ended
        try:
            async with asyncio.timeout(None if ended else silence):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, TOO_SLOW, {"Connection": "close"}) from error
        if message["type"] == "http.request":
            seen, ended = seen + len(message.get("body", b"")), not message.get("more_body", False)
            if seen > limit:
                raise HTTPException(413, _too_large(limit), {"Connection": "close"})
        return message

    return counted


async def _whole(receive: Receive) -> Message:
    """A whole body as one message; or that of a client who has gone."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return {"type": "http.request", "body": body, "more_body": False}


def _replayed(first: Message, receive: Receive) -> Receive:
    """Gives that message, then what comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return first

    return replay


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
    body = json.dumps({"error": sentence}).encode()
    await _answer_bytes(send, status, body, {"Content-Type": "application/json"} | (more or {}))


async def _answer_bytes(send: Send, status: int, body: bytes, more: dict[str, str]) -> None:
    """An answer that reads nothing of the request's body, so the connection closes with it."""
    headers = {"Content-Length": str(len(body)), "Connection": "close"} | more
    encoded = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _too_large(limit: int) -> str:
    size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit // 2**10} KiB"
    return f"that is too large: at most {size}. Make it smaller first."
