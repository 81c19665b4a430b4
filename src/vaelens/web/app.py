"""The FastAPI application: error responses, the page's static files, and the event stream with every change."""

import asyncio
import threading
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from vaelens.errors import BadInputError, CheckFailedError, ResourceError, UsageError, VaelensError
from vaelens.text.wrong_fields import explain_value
from vaelens.web import assets
from vaelens.web.access import AccessPolicy
from vaelens.web.middleware import MAX_UPLOAD_BYTES, SecurityMiddleware
from vaelens.web.queue import ConflictError, Queue, QueueFullError
from vaelens.web.routes import add_blind_results, add_jobs, add_results, add_uploads, failure, found
from vaelens.web.worker import JobRunner

MAX_STREAMS = 64  # concurrent event streams
POLL, HEARTBEAT = 0.1, 15.0  # seconds between two checks for changes, and between two heartbeats
STATUS: dict[type[Exception], int] = {
    CheckFailedError: 410,  # a stored result that has changed
    QueueFullError: 429,
    ConflictError: 409,
    UsageError: 422,
    BadInputError: 422,
    ResourceError: 503,
}
MESSAGES = {"Not Found": "there is nothing at this address.", "Method Not Allowed": "this method isn't allowed here."}


def make_app(
    runner: JobRunner,
    queue: Queue,
    policy: AccessPolicy,
    closing: threading.Event,
    max_upload_bytes: int = MAX_UPLOAD_BYTES,
) -> SecurityMiddleware:
    """The whole application inside its middleware. `closing` ends the event streams."""
    app = FastAPI(
        title="vaelens",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    _add_errors(app, runner)
    _add_page(app)
    add_jobs(app, runner, queue)
    add_blind_results(app, runner, queue)
    add_results(app, runner, queue)
    add_uploads(app, runner)
    _add_events(app, queue, closing)
    return SecurityMiddleware(app, policy, max_upload_bytes)


def _add_errors(app: FastAPI, runner: JobRunner) -> None:
    """Every error is one sentence of JSON, without paths of this machine and without a traceback."""

    def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return failure(error.status_code, MESSAGES.get(error.detail, error.detail), dict(error.headers or {}))

    def parameter(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return failure(422, f"{str(first['loc'][-1])[:40]}: {explain_value(first)}.")

    def expected(_: Request, error: Exception) -> Response:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        return failure(status, runner.without_paths(str(error)), {"Retry-After": "5"} if status == 429 else None)

    def unexpected(_: Request, error: Exception) -> Response:
        runner.report(error)
        return failure(500, f"an unexpected error ({type(error).__name__}).")

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, parameter)
    app.add_exception_handler(VaelensError, expected)
    app.add_exception_handler(Exception, unexpected)


def _add_page(app: FastAPI) -> None:
    index, files = assets.index(), assets.static_files()

    async def page() -> Response:
        return Response(index, media_type=assets.HTML)

    async def static(name: str) -> Response:
        media_type, content = found(files.get(name))
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    app.get("/")(page)
    app.get("/static/{name}")(static)


def _add_events(app: FastAPI, queue: Queue, closing: threading.Event) -> None:
    streams = [0]

    async def stream() -> AsyncIterator[str]:
        try:
            yield "retry: 2000\n\n"
            revision, state = queue.first()
            yield f"event: state\ndata: {state}\n\n"
            waited = 0.0
            while not closing.is_set():
                await asyncio.sleep(POLL)
                waited += POLL
                revision, change = queue.since(revision)
                if change is not None:
                    waited = 0.0
                    yield f"event: change\ndata: {change}\n\n"
                elif waited >= HEARTBEAT:
                    waited = 0.0
                    yield ": heartbeat\n\n"
        finally:
            streams[0] -= 1

    async def events() -> Response:
        if streams[0] >= MAX_STREAMS:
            return failure(429, "too many pages are open. Close some.", {"Retry-After": "5"})
        streams[0] += 1
        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    app.get("/api/events")(events)
