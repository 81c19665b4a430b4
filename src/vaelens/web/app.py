"""The application: its errors, the page's own files, and the events that tell a page what changes."""

import asyncio
import threading
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from vaelens.errors import BadInputError, ResourceError, UsageError, VaelensError
from vaelens.web import assets
from vaelens.web.answers import failure, known
from vaelens.web.door import Door
from vaelens.web.guard import UPLOAD_BYTES, Guard
from vaelens.web.job_routes import add_jobs, add_results
from vaelens.web.queue import FullError, Queue
from vaelens.web.upload_route import add_uploads
from vaelens.web.work import Workshop

MOST_LISTENERS = 64  # at a time
TICK, BEAT = 0.1, 15.0  # seconds between two looks at what changed, and between two signs of life
STREAM = "text/event-stream"
STATUS: dict[type[Exception], int] = {FullError: 429, UsageError: 422, BadInputError: 422, ResourceError: 503}


def make_app(
    workshop: Workshop, queue: Queue, door: Door, closing: threading.Event, upload_bytes: int = UPLOAD_BYTES
) -> Guard:
    """The whole application behind its guard. `closing` ends the event streams."""
    app = FastAPI(
        title="vaelens",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # it asks nobody
    )
    _add_errors(app, workshop)
    _add_page(app)
    add_jobs(app, workshop, queue)
    add_results(app, workshop, queue)
    add_uploads(app, workshop)
    _add_events(app, queue, closing)
    return Guard(app, door, upload_bytes)


def _add_errors(app: FastAPI, workshop: Workshop) -> None:
    """Every failure is one sentence of JSON, without a path of this machine and without a traceback."""

    def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = {404: "there is nothing here.", 405: "that can't be done here."}.get(error.status_code)
        given = error.detail if error.detail not in {"Not Found", "Method Not Allowed"} else sentence
        return failure(error.status_code, given or error.detail, dict(error.headers or {}))

    def address(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return failure(422, f"{str(first['loc'][-1])[:40]}: {str(first['msg']).lower()}.")

    def ours(_: Request, error: Exception) -> Response:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        return failure(status, workshop.cleaned(str(error)), {"Retry-After": "5"} if status == 429 else None)

    def foreseen_by_nobody(_: Request, error: Exception) -> Response:
        workshop.report(error)
        return failure(500, f"an unexpected error ({type(error).__name__}).")

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, address)
    app.add_exception_handler(VaelensError, ours)
    app.add_exception_handler(Exception, foreseen_by_nobody)


def _add_page(app: FastAPI) -> None:
    index, files = assets.index(), assets.assets()

    async def page() -> Response:
        return Response(index, media_type=assets.HTML)

    async def static(name: str) -> Response:
        kind, content = known(files.get(name))
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    app.get("/")(page)
    app.get("/static/{name}")(static)


def _add_events(app: FastAPI, queue: Queue, closing: threading.Event) -> None:
    listening = [0]

    async def stream() -> AsyncIterator[str]:
        try:
            yield "retry: 2000\n\n"
            revision, state = queue.first()
            yield f"event: state\ndata: {state}\n\n"
            waited = 0.0
            while not closing.is_set():
                await asyncio.sleep(TICK)
                waited += TICK
                revision, change = queue.since(revision)
                if change is not None:
                    waited = 0.0
                    yield f"event: change\ndata: {change}\n\n"
                elif waited >= BEAT:
                    waited = 0.0
                    yield ": still here\n\n"
        finally:
            listening[0] -= 1

    async def events() -> Response:
        if listening[0] >= MOST_LISTENERS:
            return failure(429, "too many pages are open. Close some.", {"Retry-After": "5"})
        listening[0] += 1
        return StreamingResponse(stream(), media_type=STREAM, headers={"Cache-Control": "no-store"})

    app.get("/api/events")(events)
