"""The routes. What reaches them has passed the guard; what they answer is JSON, pictures, or the page's own files."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from vaelens.errors import BadInputError, ResourceError, UsageError, VaelensError
from vaelens.web import asked as asking
from vaelens.web import assets
from vaelens.web.guard import UPLOAD_BYTES, Door, Guard
from vaelens.web.queue import Queue
from vaelens.web.store import PAGE, RECORD, SHEET
from vaelens.web.work import Workshop

MOST_LISTENERS, MOST_UPLOADS = 64, 4  # at a time
TICK, BEAT = 0.1, 15.0  # seconds between two looks at what changed, and between two signs of life
PATIENCE = 120.0  # seconds that an upload may take
DOWNLOADS = {
    "page": (PAGE, "text/html", "html"),
    "sheet": (SHEET, "image/png", "png"),
    "record": (RECORD, "application/json", "json"),
}
KEEP = {"Cache-Control": "private, max-age=86400, immutable"}  # a picture of an id never changes
PNG, STREAM = "image/png", "text/event-stream"


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
    _add_jobs(app, workshop, queue)
    _add_results(app, workshop, queue)
    _add_uploads(app, workshop)
    _add_events(app, queue, closing)
    return Guard(app, door, upload_bytes)


def _add_errors(app: FastAPI, workshop: Workshop) -> None:
    """Every failure is one sentence of JSON, without a path of this machine and without a traceback."""

    def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = {404: "there is nothing here.", 405: "that can't be done here."}.get(error.status_code)
        given = error.detail if error.detail not in {"Not Found", "Method Not Allowed"} else sentence
        return _error(error.status_code, given or error.detail, dict(error.headers or {}))

    def ours(_: Request, error: Exception) -> Response:
        kinds: list[tuple[type[Exception], int]] = [(UsageError, 422), (BadInputError, 422), (ResourceError, 503)]
        status = next((code for kind, code in kinds if isinstance(error, kind)), 500)
        return _error(status, workshop.cleaned(str(error)))

    def foreseen_by_nobody(_: Request, error: Exception) -> Response:
        return _error(500, f"an unexpected error ({type(error).__name__}).")

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(VaelensError, ours)
    app.add_exception_handler(Exception, foreseen_by_nobody)


def _add_page(app: FastAPI) -> None:
    index, files = assets.index(), assets.assets()

    async def page() -> Response:
        return Response(index, media_type=assets.HTML)

    async def static(name: str) -> Response:
        kind, content = _known(files.get(name))
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    app.get("/")(page)
    app.get("/static/{name}")(static)


def _add_jobs(app: FastAPI, workshop: Workshop, queue: Queue) -> None:
    adding = asyncio.Semaphore(2)  # so that many at once leave the threads to others

    async def choices() -> Response:
        return JSONResponse(workshop.choices.shown())

    async def every() -> Response:
        _, jobs, _ = queue.since(-1)
        return JSONResponse({"jobs": jobs, "bytes": sum(job.get("bytes", 0) for job in jobs)})

    async def add(request: Request) -> Response:
        queue.check_room()  # a flood is refused before it costs anything
        body = await request.body()
        async with adding:
            return JSONResponse(await run_in_threadpool(_added, body, workshop, queue), 202)

    async def one(job: str) -> Response:
        return JSONResponse(_known(queue.get(job)))

    async def cancel(job: str) -> Response:
        _known(queue.get(job))
        if not await run_in_threadpool(_unless_gone, queue.cancel, job):
            return _error(409, "that job has ended already.")
        return JSONResponse(_known(queue.get(job)))

    async def delete(job: str) -> Response:
        _known(queue.get(job))
        if not await run_in_threadpool(_unless_gone, queue.delete, job):
            return _error(409, "that job hasn't ended. Cancel it first.")
        return Response(status_code=204)

    app.get("/api/choices")(choices)
    app.get("/api/jobs")(every)
    app.post("/api/jobs")(add)
    app.get("/api/jobs/{job}")(one)
    app.post("/api/jobs/{job}/cancel")(cancel)
    app.delete("/api/jobs/{job}")(delete)


def _added(body: bytes, workshop: Workshop, queue: Queue) -> dict[str, Any]:
    asked = asking.read(body)
    model, vaes = asking.check(asked, workshop.choices, dtype=workshop.dtype, guard=workshop.guard)
    described: dict[str, Any] = {"prompt": asked.prompt, "model": model.name if model else None}
    return queue.add(asked, described | {"vaes": [vae.name for vae in vaes]})


def _add_results(app: FastAPI, workshop: Workshop, queue: Queue) -> None:
    store = workshop.store

    async def picture(job: str, number: str, download: bool = False) -> Response:
        layers = [layer for panel in _known(queue.get(job))["panels"] for layer in panel["layers"]]
        wanted = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else -1
        layer = _known(next((layer for layer in layers if layer["picture"] == wanted), None))
        png = _known(await run_in_threadpool(store.picture, job, wanted))
        more = _saved_as(f"{job[:8]}-{layer['picture']}", "png") if download else {}
        return Response(png, media_type=PNG, headers=KEEP | more)

    async def download(job: str, what: str) -> Response:
        name, kind, suffix = _known(DOWNLOADS.get(what))
        _known(queue.get(job))
        content = _known(await run_in_threadpool(store.result, job, name))
        return Response(content, media_type=kind, headers=_saved_as(job[:8], suffix))

    app.get("/api/jobs/{job}/pictures/{number}")(picture)
    app.get("/api/jobs/{job}/{what}")(download)


def _add_uploads(app: FastAPI, workshop: Workshop) -> None:
    store, under_way = workshop.store, [0]

    async def upload(request: Request, name: str = "picture") -> Response:
        if under_way[0] >= MOST_UPLOADS:
            return _error(503, "several uploads are under way. Try again in a moment.", {"Retry-After": "2"})
        under_way[0] += 1
        number, part = store.begin_upload()
        kept = False
        try:
            async with asyncio.timeout(PATIENCE):
                with part.open("wb") as file:
                    async for chunk in request.stream():
                        file.write(chunk)
            height, width = await run_in_threadpool(store.finish_upload, number, unquote(name)[:200])
            kept = True
        except TimeoutError:
            return _error(408, "the upload took too long. Try again.", {"Connection": "close"})
        except OSError as error:
            raise ResourceError("the upload could not be kept on disk. Free some room, try again.") from error
        finally:
            under_way[0] -= 1
            if not kept:
                store.drop_upload(number)
        called = store.upload_name(number)
        return JSONResponse({"id": number, "name": called, "width": width, "height": height}, 201)

    app.post("/api/uploads")(upload)


def _add_events(app: FastAPI, queue: Queue, closing: threading.Event) -> None:
    listening = [0]

    async def stream() -> AsyncIterator[str]:
        revision, waited = -1, 0.0
        try:
            yield "retry: 2000\n\n"
            while not closing.is_set():
                now, jobs, gone = queue.since(revision)
                if now != revision or revision == -1:
                    kind = "state" if revision == -1 else "change"
                    revision, waited = now, 0.0
                    yield f"event: {kind}\ndata: {json.dumps({'jobs': jobs, 'gone': gone})}\n\n"
                elif waited >= BEAT:
                    waited = 0.0
                    yield ": still here\n\n"
                await asyncio.sleep(TICK)
                waited += TICK
        finally:
            listening[0] -= 1

    async def events() -> Response:
        if listening[0] >= MOST_LISTENERS:
            return _error(503, "too many pages are open. Close some.", {"Retry-After": "5"})
        listening[0] += 1
        return StreamingResponse(stream(), media_type=STREAM, headers={"Cache-Control": "no-store"})

    app.get("/api/events")(events)


def _unless_gone(act: Callable[[str], bool], job: str) -> bool:
    try:
        return act(job)
    except KeyError as error:
        raise HTTPException(404) from error


def _known(found: Any) -> Any:
    """What was found; 404 where nothing was."""
    if found is None:
        raise HTTPException(404)
    return found


def _saved_as(name: str, suffix: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="vaelens-{name}.{suffix}"'}


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": sentence}, status, headers)
