"""Which column of a parquet file holds the images, by its type and name."""

from collections.abc import Sequence
from typing import Any, cast

from vaelens.errors import BadInputError
from vaelens.json_reading import parse_json

COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo")
SHOWN = 20  # columns in a message
MAX_TYPE = 60  # characters of a type in a message
NEEDED = "vaelens reads a column of {bytes, path}, or one of bytes called image, jpg or png"


def image_column(arrow: Any, schema: Any, where: str) -> tuple[str, tuple[str, ...]]:
    """The column of images, and the other columns that hold images too.

    Columns of {bytes, path}, marked as images where a description by the hub's library marks any, and of bytes under
    one of COLUMNS' names; of several the first in COLUMNS, else the first of the file. Raises BadInputError, naming the
    file by `where`, for none.
    """
    marked = _features(schema.metadata or {})
    structs = [f.name for f in schema if arrow.types.is_struct(f.type) and _has_bytes(arrow, f.type)]
    plain = [f.name for f in schema if _is_bytes(arrow, f.type) and f.name in COLUMNS]
    images = [name for name in structs if _is_image(marked.get(name))] or plain if marked else [*structs, *plain]
    names = [f.name for f in schema]
    images = sorted((name for name in images if names.count(name) == 1), key=_rank)
    if not images:
        raise BadInputError(f"{where}{_why_none(arrow, schema)}")
    return images[0], tuple(images[1:])


def _rank(name: str) -> int:
    return COLUMNS.index(name) if name in COLUMNS else len(COLUMNS)


def _why_none(arrow: Any, schema: Any) -> str:
    """What follows the file's name in the error where no column holds images."""
    texts = [f.name for f in schema if _is_text(arrow, f.type)]
    advice = "If it lists addresses, download the images first, for example with img2dataset." if texts else ""
    named = sorted((f for f in schema if f.name in COLUMNS), key=lambda f: _rank(f.name))
    if not named:
        types = [f"{f.name} ({_type(arrow, f.type)})" for f in schema]
        return f" has no column of images, only {_listed(types, '')}. {NEEDED}. {advice}".rstrip()
    column = named[0]
    if [f.name for f in schema].count(column.name) > 1:
        return f" has several columns called {column.name!r}. Rename all but one."
    if _is_bytes(arrow, column.type) or (arrow.types.is_struct(column.type) and _has_bytes(arrow, column.type)):
        return (
            f": its metadata says that column {column.name!r} doesn't hold images. Save the file without that metadata."
        )
    return f" has no images in its column {column.name!r}, which holds {_type(arrow, column.type)}. {NEEDED}. {advice}"


def _listed(names: Sequence[str], quote: str = "'") -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(f"{quote}{name}{quote}" for name in names[:SHOWN]) + more


def _type(arrow: Any, kind: Any) -> str:
    if _is_text(arrow, kind):
        return "text"
    return "bytes" if _is_bytes(arrow, kind) else str(kind)[:MAX_TYPE]


def _is_text(arrow: Any, kind: Any) -> bool:
    return bool(arrow.types.is_string(kind) or arrow.types.is_large_string(kind))


def _is_bytes(arrow: Any, kind: Any) -> bool:
    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def _has_bytes(arrow: Any, kind: Any) -> bool:
    place = kind.get_field_index("bytes")
    inner = kind.field(place).type if place >= 0 else None
    return inner is not None and (_is_bytes(arrow, inner) or bool(arrow.types.is_null(inner)))


def _features(metadata: dict[bytes, bytes]) -> dict[str, object]:
    """What the hub's own library notes of each column; nothing where it didn't write the file."""
    try:
        found = parse_json(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}
    return cast(dict[str, object], found) if isinstance(found, dict) else {}


def _is_image(feature: object) -> bool:
    return isinstance(feature, dict) and cast(dict[str, object], feature).get("_type") == "Image"
