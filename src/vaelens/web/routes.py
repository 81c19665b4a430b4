"""The HTTP routes under /api: jobs, their results and blind tests, uploads. An error is one sentence of JSON."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from vaelens.blind.pooling import pool_files
from vaelens.errors import ResourceError
from vaelens.text.paths import FULL
from vaelens.web.history import PAGE_SIZE
from vaelens.web.job import ID, Job
from vaelens.web.middleware import MAX_UPLOAD_BYTES, UPLOADS
from vaelens.web.queue import Queue
from vaelens.web.request import DEFAULT_MAX_SIDE, MAX_SEEDS, check_request, form_fields, read_request
from vaelens.web.store import PAGE, RECORD, SHEET, THUMBNAIL
from vaelens.web.uploads import Arrival, end_slowest
from vaelens.web.worker import JobRunner

_T = TypeVar("_T")
JSON = "application/json"
DOWNLOADS = {
    "page": (PAGE, "text/html", "html"),
    "sheet": (SHEET, "image/png", "png"),
    "record": (RECORD, JSON, "json"),
}
MAX_UPLOADS = 4  # concurrent ones
UPLOAD_TIMEOUT = 120.0  # seconds for a whole upload
UPLOAD_RATE = MAX_UPLOAD_BYTES / UPLOAD_TIMEOUT  # bytes per second: a slower one gives way where there are too many
UPLOAD_WAIT = 5.0  # seconds for which one waits for its turn
UPLOAD_LOOK = 0.1  # seconds between two looks for a free place
BLOCK = 2**20  # bytes written at once
Count = Annotated[int, Query(ge=1, le=PAGE_SIZE)]


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as a response."""
    return JSONResponse({"error": message}, status, headers)


def found(value: _T | None) -> _T:
    """The value; raises HTTPException 404 for None."""
    if value is None:
        raise HTTPException(404)
    return value


def add_jobs(app: FastAPI, runner: JobRunner, queue: Queue) -> None:
    """Routes that create, list, cancel and delete jobs, and what the form offers."""
    adding = asyncio.Semaphore(2)  # so that a flood of requests leaves threads for others
    limits = {"seeds": MAX_SEEDS, "upload_bytes": MAX_UPLOAD_BYTES, "max_side": DEFAULT_MAX_SIDE}

    async def choices() -> Response:
        return JSONResponse(runner.choices.as_json() | {"options": form_fields(), "limits": limits})

    async def list_jobs(before: str | None = None, count: Count = PAGE_SIZE) -> Response:
        text = queue.first()[1] if before is None else found(queue.older(before, count))
        return Response(text, media_type=JSON)

    async def add(request: Request) -> Response:
        queue.check_room()  # refuse a flood before it costs anything
        body = await request.body()
        async with adding:
            return JSONResponse(await run_in_threadpool(_add, body, runner, queue), 202)

    async def show(job: str) -> Response:
        return JSONResponse(found(queue.get(job)))

    async def cancel(job: str) -> Response:
        if not await run_in_threadpool(_if_known, queue.cancel, job):
            return failure(409, "that job has ended already.")
        return JSONResponse(found(queue.get(job)))

    async def delete(job: str) -> Response:
        if not await run_in_threadpool(_if_known, queue.delete, job):
            return failure(409, "that job hasn't ended. Cancel it first.")
        return Response(status_code=204)

    app.get("/api/choices")(choices)
    app.get("/api/jobs")(list_jobs)
    app.post("/api/jobs")(add)
    app.get("/api/jobs/{job}")(show)
    app.post("/api/jobs/{job}/cancel")(cancel)
    app.delete("/api/jobs/{job}")(delete)


def add_results(app: FastAPI, runner: JobRunner, queue: Queue) -> None:
    """Routes to a job's images and downloads."""
    store = runner.store

    async def image(request: Request, job: str, number: str, download: bool = False) -> Response:
        layers = [layer for panel in found(queue.get(job))["panels"] for layer in panel["layers"]]
        image = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else -1
        found(next((layer for layer in layers if layer["image"] == image), None))
        headers = _attachment(f"{job[:8]}-{image}", "png") if download else {}
        return await _png(request, f"{job}-{image}", lambda: store.image(job, image), headers)

    async def thumbnail(request: Request, job: str) -> Response:
        found(queue.get(job))
        return await _png(request, job, lambda: store.result(job, THUMBNAIL))

    async def download(job: str, what: str) -> Response:
        name, media_type, suffix = found(DOWNLOADS.get(what))
        found(queue.get(job))
        content = found(await run_in_threadpool(store.result, job, name))
        return Response(content, media_type=media_type, headers=_attachment(job[:8], suffix))

    app.get("/api/jobs/{job}/images/{number}")(image)
    app.get("/api/jobs/{job}/thumbnail")(thumbnail)
    app.get("/api/jobs/{job}/{what}")(download)


def add_blind_results(app: FastAPI, runner: JobRunner, queue: Queue) -> None:
    """Routes that store the results of a job's blind tests, pool them, and give one."""
    store, busy = runner.store, asyncio.Semaphore(2)  # reading many results takes a while: leave threads for others

    def pooled(job: Job) -> bytes | None:
        results = store.blind_results(job)
        return pool_files(results).page().encode() if results else None

    async def add(request: Request, job: str) -> Response:
        body = await request.body()
        async with busy:
            try:
                run = await run_in_threadpool(queue.add_blind_result, job, body)
            except KeyError:
                return failure(404, "this job doesn't exist, or was deleted.")
        return JSONResponse({"run": run}, 201)

    async def show(job: str) -> Response:
        known = found(queue.get(job))
        async with busy:
            page = await run_in_threadpool(pooled, known)
        if page is None:
            return failure(404, "no result of a blind test is stored with this job.")
        return Response(page, media_type="text/html", headers=_attachment(f"{job[:8]}-blind", "html"))

    async def one(job: str, run: str) -> Response:
        known = found(queue.get(job))
        found(ID.fullmatch(run))
        content = found(await run_in_threadpool(store.blind_result, known, run))
        return Response(content, media_type=JSON, headers=_attachment(f"{job[:8]}-blind-{run[:8]}", "json"))

    app.post("/api/jobs/{job}/blind")(add)
    app.get("/api/jobs/{job}/blind")(show)
    app.get("/api/jobs/{job}/blind/{run}")(one)


def add_uploads(app: FastAPI, runner: JobRunner) -> None:
    """The route that receives an image. Disks may be slow, so the event loop itself writes nothing."""
    uploads, active, waiting, arriving = runner.store.uploads, [0], [0], list[Arrival]()

    async def upload(request: Request, name: str = "image") -> Response:
        clock = asyncio.get_running_loop().time
        until = clock() + (UPLOAD_WAIT if waiting[0] < MAX_UPLOADS else 0)  # those who wait hold places of other calls
        waiting[0] += 1
        try:
            while active[0] >= MAX_UPLOADS and not end_slowest(arriving, UPLOAD_RATE, clock()):
                if clock() >= until:
                    return failure(429, "several uploads are in progress. Try again in a moment.", {"Retry-After": "2"})
                await asyncio.sleep(UPLOAD_LOOK)
        finally:
            waiting[0] -= 1
        active[0] += 1
        number, part = uploads.begin()
        complete = False
        try:
            async with asyncio.timeout(UPLOAD_TIMEOUT) as deadline:
                arrival = Arrival(deadline, clock())
                arriving.append(arrival)
                try:
                    await _receive(request, part, lambda count: arrival.add(count, clock()))
                finally:
                    if arrival in arriving:
                        arriving.remove(arrival)
            saved_name, height, width = await run_in_threadpool(uploads.finish, number, name[:200])
            complete = True
        except TimeoutError:
            return failure(408, "the upload took too long. Try again.", {"Connection": "close"})
        except ClientDisconnect:
            return failure(400, "the upload ended too early.")  # nobody is there to read it
        except OSError as error:
            why = "the disk is full. Free some room" if error.errno in FULL else f"{error.strerror or 'unknown error'}"
            raise ResourceError(f"the upload could not be saved: {why}. Try again.") from error
        finally:
            active[0] -= 1
            if not complete:
                await run_in_threadpool(uploads.drop, number)
        return JSONResponse({"id": number, "name": saved_name, "width": width, "height": height}, 201)

    app.post(UPLOADS)(upload)


async def _receive(request: Request, part: Path, received: Callable[[int], None]) -> None:
    file = await run_in_threadpool(part.open, "wb")
    try:
        block = bytearray()
        async for chunk in request.stream():
            received(len(chunk))
            block += chunk
            if len(block) >= BLOCK:
                await run_in_threadpool(file.write, bytes(block))
                block.clear()
        await run_in_threadpool(file.write, bytes(block))
    finally:
        await run_in_threadpool(file.close)


async def _png(
    request: Request, tag: str, read: Callable[[], bytes | None], headers: dict[str, str] | None = None
) -> Response:
    """An image never changes, yet browsers must ask each time, so that they don't show one that was deleted."""
    headers = {"Cache-Control": "private, no-cache", "ETag": f'"{tag}"'} | (headers or {})
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(found(await run_in_threadpool(read)), media_type="image/png", headers=headers)


def _attachment(name: str, suffix: str) -> dict[str, str]:
    """The header that makes a browser save a response instead of showing it."""
    return {"Content-Disposition": f'attachment; filename="vaelens-{name}.{suffix}"'}


def _add(body: bytes, runner: JobRunner, queue: Queue) -> Job:
    request = read_request(body)
    model, vaes = check_request(request, runner.choices, runtime=runner.runtime, safety_checker=runner.safety_checker)
    summary: dict[str, Any] = {"prompt": request.prompt, "model": model.name if model else None}
    summary |= {"vaes": [vae.name for vae in vaes], "seeds": " ".join(map(str, request.seeds))}
    return queue.add(request, summary)


def _if_known(act: Callable[[str], bool], job: str) -> bool:
    try:
        return act(job)
    except KeyError as error:
        raise HTTPException(404) from error
