"""What the routes share: an error's answer, 404 for what isn't there, and the name of a download."""

from typing import TypeVar

from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

_Found = TypeVar("_Found")
JSON = "application/json"


def failure(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """Every failure is one sentence of JSON."""
    return JSONResponse({"error": sentence}, status, headers)


def known(found: _Found | None) -> _Found:
    """What was found; 404 where nothing was."""
    if found is None:
        raise HTTPException(404)
    return found


def saved_as(name: str, suffix: str) -> dict[str, str]:
    """The header that makes a browser save an answer instead of showing it."""
    return {"Content-Disposition": f'attachment; filename="vaelens-{name}.{suffix}"'}
