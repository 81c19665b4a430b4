"""JSON from elsewhere, read in bounded memory: what its grammar allows but no file needs is refused."""

import json
import math
import re
import stat
from pathlib import Path
from typing import Any, cast

from vaelens.errors import BadInputError
from vaelens.text.paths import reason

# Limits of JSON from elsewhere. The header of a whole SDXL checkpoint: 0.4 MB, 2,500 tensors, 40,000 values.
JSON_BYTES = 8_000_000
JSON_CHARACTERS = 16_000_000  # in bytes of memory: Python takes 4 for each character of a text that holds an emoji
JSON_VALUES = 250_000
JSON_DEPTH = 32
JSON_DIGITS = 20  # of a whole number: 2^64 has 20
JSON_NUMBER = 100  # characters of a number with a point or an exponent
# A string, or what is left of one: never a mismatch, so that each byte is looked at once.
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
FOUR_BYTES, TWO_BYTES = re.compile(rb"[\xf0-\xff]"), re.compile(rb"[\xc4-\xff]")  # in UTF-8: for each character


def parse_json(text: bytes | str, *, limit: int = JSON_BYTES, values: int = JSON_VALUES, nan: bool = False) -> Any:
    """What a text from elsewhere holds, in UTF-8 with or without a byte order mark; no more than `limit` bytes.

    Raises ValueError, with a reason to put into a sentence, for what isn't JSON, and for what JSON's grammar allows but
    no file needs: a key that appears twice, numbers that aren't finite or have hundreds of digits, half a surrogate
    pair, more than JSON_DEPTH levels, more than `values` values. Memory beyond the text's own is bounded by that.
    With `nan`, NaN and Infinity, which Python's json writes though they aren't JSON, become None.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > limit:
        raise ValueError(f"it has {len(raw):,} bytes, more than the {limit:,} that are read")
    width = 1 if raw.isascii() else 4 if FOUR_BYTES.search(raw) else 2 if TWO_BYTES.search(raw) else 1
    if len(raw) * width > max(2 * limit, JSON_CHARACTERS):
        raise ValueError(f"its {len(raw):,} bytes hold characters that take {width} times the memory")
    _check_count(raw, values)
    try:
        found = json.loads(
            raw.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_nothing if nan else _constant,
        )
    except json.JSONDecodeError as error:
        wrong = f"it is cut off, or isn't JSON from character {error.pos + 1:,} on"
        raise ValueError(wrong if raw.strip() else "it is empty") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it isn't UTF-8: {error.reason}, at byte {error.start:,}") from None
    except RecursionError:
        raise ValueError(f"it is nested more than {JSON_DEPTH} levels deep") from None
    if SURROGATE.search(raw) or raw.count(b"[") + raw.count(b"{") > JSON_DEPTH:
        _check_values(found)
    return found


def read_json(path: Path, *, limit: int = JSON_BYTES, values: int = JSON_VALUES) -> dict[str, Any]:
    """The object in a JSON file, read as `parse_json` does.

    Raises BadInputError for anything else and for a file that can't be read; FileNotFoundError where there is none.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            raise ValueError("it isn't an ordinary file")
        with path.open("rb") as file:
            found = parse_json(file.read(limit + 1), limit=limit, values=values)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} can't be read as JSON: {reason(error)}. Use the original file.") from error
    if not isinstance(found, dict):
        raise BadInputError(f"{path} isn't a JSON object. Use the original file.")
    return cast(dict[str, Any], found)


def _check_count(raw: bytes, limit: int) -> None:
    """Raises ValueError where there may be more values than `limit`, before any is made."""
    if _separators(raw) <= limit:
        return
    # An escape before a quote may itself be escaped: then a string counts half.
    if raw.count(b'"') - raw.count(b'\\"') > 2 * limit or _separators(STRING.sub(b"", raw)) > limit:
        raise ValueError(f"it holds more than {limit:,} values")


def _separators(raw: bytes) -> int:
    return sum(raw.count(one) for one in (b",", b"[", b"{"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {quoted(twice)} appears twice")
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > JSON_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _number(digits: str) -> float:
    if len(digits) > JSON_NUMBER:
        raise ValueError(f"a number has {len(digits):,} digits")
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"the number {digits} is too large")
    return number


def _constant(name: str) -> float:
    raise ValueError(f"{name} isn't valid JSON")


def _nothing(_name: str) -> None:
    return None


def _check_values(found: Any) -> None:
    """Raises ValueError for too many levels, and for strings that can't be written anywhere."""
    level = [found]
    for _ in range(JSON_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*cast(dict[str, Any], value), *cast(dict[str, Any], value).values()]
            elif isinstance(value, list):
                below += cast(list[Any], value)
            elif isinstance(value, str) and not _is_text(value):
                raise ValueError("a string holds half a surrogate pair")
        if not below:
            return
        level = below
    raise ValueError(f"it is nested more than {JSON_DEPTH} levels deep")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def quoted(value: object, length: int = 60) -> str:
    """A value from elsewhere as messages show it: quoted, and cut to a sensible length."""
    text = ascii(value) if isinstance(value, str) and not _is_text(value) else repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
