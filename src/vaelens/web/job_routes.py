"""The routes of the jobs: asking for one, looking at them, ending and forgetting them, and what came out."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from vaelens.web import asked as asking
from vaelens.web.answers import JSON, failure, known, saved_as
from vaelens.web.history import PAGE_OF_PAST
from vaelens.web.job import Job
from vaelens.web.queue import Queue
from vaelens.web.store import PAGE, RECORD, SHEET, THUMBNAIL
from vaelens.web.work import Workshop

DOWNLOADS = {
    "page": (PAGE, "text/html", "html"),
    "sheet": (SHEET, "image/png", "png"),
    "record": (RECORD, "application/json", "json"),
}
Count = Annotated[int, Query(ge=1, le=PAGE_OF_PAST)]


def add_jobs(app: FastAPI, workshop: Workshop, queue: Queue) -> None:
    """Asking for a job; all of them and one; ending one and forgetting it."""
    adding = asyncio.Semaphore(2)  # so that many at once leave the threads to others

    async def choices() -> Response:
        return JSONResponse(workshop.choices.shown() | {"max_side": asking.MAX_SIDE})

    async def some(before: str | None = None, count: Count = PAGE_OF_PAST) -> Response:
        told = queue.first()[1] if before is None else known(queue.older(before, count))
        return Response(told, media_type=JSON)

    async def add(request: Request) -> Response:
        queue.check_room()  # a flood is refused before it costs anything
        body = await request.body()
        async with adding:
            return JSONResponse(await run_in_threadpool(_added, body, workshop, queue), 202)

    async def one(job: str) -> Response:
        return JSONResponse(known(queue.get(job)))

    async def cancel(job: str) -> Response:
        if not await run_in_threadpool(_unless_gone, queue.cancel, job):
            return failure(409, "that job has ended already.")
        return JSONResponse(known(queue.get(job)))

    async def delete(job: str) -> Response:
        if not await run_in_threadpool(_unless_gone, queue.delete, job):
            return failure(409, "that job hasn't ended. Cancel it first.")
        return Response(status_code=204)

    app.get("/api/choices")(choices)
    app.get("/api/jobs")(some)
    app.post("/api/jobs")(add)
    app.get("/api/jobs/{job}")(one)
    app.post("/api/jobs/{job}/cancel")(cancel)
    app.delete("/api/jobs/{job}")(delete)


def add_results(app: FastAPI, workshop: Workshop, queue: Queue) -> None:
    """A job's images and downloads."""
    store = workshop.store

    async def image(request: Request, job: str, number: str, download: bool = False) -> Response:
        layers = [layer for panel in known(queue.get(job))["panels"] for layer in panel["layers"]]
        wanted = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else -1
        known(next((layer for layer in layers if layer["image"] == wanted), None))
        more = saved_as(f"{job[:8]}-{wanted}", "png") if download else {}
        return await _png(request, f"{job}-{wanted}", lambda: store.image(job, wanted), more)

    async def thumbnail(request: Request, job: str) -> Response:
        known(queue.get(job))
        return await _png(request, job, lambda: store.result(job, THUMBNAIL))

    async def download(job: str, what: str) -> Response:
        name, kind, suffix = known(DOWNLOADS.get(what))
        known(queue.get(job))
        content = known(await run_in_threadpool(store.result, job, name))
        return Response(content, media_type=kind, headers=saved_as(job[:8], suffix))

    app.get("/api/jobs/{job}/images/{number}")(image)
    app.get("/api/jobs/{job}/thumbnail")(thumbnail)
    app.get("/api/jobs/{job}/{what}")(download)


async def _png(
    request: Request, tag: str, read: Callable[[], bytes | None], more: dict[str, str] | None = None
) -> Response:
    """An image never changes. Yet a browser asks each time, so that it doesn't show one that was deleted."""
    headers = {"Cache-Control": "private, no-cache", "ETag": f'"{tag}"'} | (more or {})
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(known(await run_in_threadpool(read)), media_type="image/png", headers=headers)


def _added(body: bytes, workshop: Workshop, queue: Queue) -> Job:
    asked = asking.read(body)
    model, vaes = asking.check(asked, workshop.choices, dtype=workshop.dtype, guard=workshop.guard)
    described: dict[str, Any] = {"prompt": asked.prompt, "model": model.name if model else None}
    described |= {"vaes": [vae.name for vae in vaes], "seeds": " ".join(map(str, asked.seeds))}
    return queue.add(asked, described)


def _unless_gone(act: Callable[[str], bool], job: str) -> bool:
    try:
        return act(job)
    except KeyError as error:
        raise HTTPException(404) from error
