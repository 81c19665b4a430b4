"""The route that takes an image. Disks may be slow, so nothing of it is written in the loop that answers everybody."""

import asyncio
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from vaelens.errors import ResourceError
from vaelens.files import FULL
from vaelens.web.answers import failure
from vaelens.web.work import Workshop

MOST_UPLOADS = 4  # at a time
PATIENCE = 120.0  # seconds that an upload may take
BLOCK = 2**20  # bytes that are written at a time


def add_uploads(app: FastAPI, workshop: Workshop) -> None:
    """An image's bytes, as image/..."""
    uploads, under_way = workshop.store.uploads, [0]

    async def upload(request: Request, name: str = "image") -> Response:
        if under_way[0] >= MOST_UPLOADS:
            return failure(429, "several uploads are under way. Try again in a moment.", {"Retry-After": "2"})
        under_way[0] += 1
        number, part = uploads.begin()
        kept = False
        try:
            async with asyncio.timeout(PATIENCE):
                await _receive(request, part)
            called, height, width = await run_in_threadpool(uploads.finish, number, name[:200])
            kept = True
        except TimeoutError:
            return failure(408, "the upload took too long. Try again.", {"Connection": "close"})
        except ClientDisconnect:
            return failure(400, "the upload ended too early.")  # which nobody reads
        except OSError as error:
            why = "the disk is full. Free some room" if error.errno in FULL else f"{error.strerror or 'unknown'}"
            raise ResourceError(f"the upload could not be kept: {why}. Try again.") from error
        finally:
            under_way[0] -= 1
            if not kept:
                await run_in_threadpool(uploads.drop, number)
        return JSONResponse({"id": number, "name": called, "width": width, "height": height}, 201)

    app.post("/api/uploads")(upload)


async def _receive(request: Request, part: Path) -> None:
    file = await run_in_threadpool(part.open, "wb")
    try:
        held = bytearray()
        async for chunk in request.stream():
            held += chunk
            if len(held) >= BLOCK:
                await run_in_threadpool(file.write, bytes(held))
                held.clear()
        await run_in_threadpool(file.write, bytes(held))
    finally:
        await run_in_threadpool(file.close)
