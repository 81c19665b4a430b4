"""JSON as it shouldn't be: one place of a valid document replaced, or its bytes changed."""

import json
import random
from collections.abc import Iterator
from typing import Any, cast

MARK = "@ the place @"
FRAGMENTS = (
    "null", "true", "false", "0", "-1", "1", "2", "0.5", "-0.0", "1.0", "1e999", "-1e999", "NaN", "-Infinity", "1e-999",
    "9223372036854775807", "9223372036854775808", "18446744073709551616", "99999999999999999999", "1" * 400, "9" * 5000,
    "-" + "9" * 5000, "0." + "3" * 500, '""', '"x"', '"1"', '"1e999"', '"' + "7" * 5000 + '"', '"\\ud800"', '"\\u0000"',
    '"\\u001b[31m\\n"', '"\u202e"', "[]", "[[]]", "[null]", "[true]", "[-1]", "[1, 2, 3]", "[0, 0]", "[0.5]", '["x"]',
    "[9223372036854775807, 9223372036854775807]", "[4294967296, 4294967296]", "[1000000000, 1000000000]",
    "[" + "1, " * 70 + "1]", "[" * 90 + "]" * 90, "[" * 5000 + "]" * 5000, "{}", '{"a": {"a": []}}', '{"a": 1, "a": 2}',
    '{"shape": [1], "dtype": "F32", "data_offsets": [0, 4]}', '"F8_E4M3"', '"F4"', '"AutoencoderTiny"',
)  # fmt: skip


def mutated(document: Any, rng: random.Random) -> bytes:
    """The document with one to three places replaced, doubled or removed, or with its bytes changed."""
    if rng.random() < 0.3:
        return _bytes_changed(json.dumps(document).encode(), rng)
    changed: Any = json.loads(json.dumps(document))
    fragments: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = [*_places(changed)]
        if not places:
            break
        holder, key = rng.choice(places)
        choice = rng.random()
        if choice < 0.1:
            del holder[key]
        elif choice < 0.2 and isinstance(holder, dict):
            holder[rng.choice(("", "x", "\u202e", "k" * 300, "__metadata__", "encoder.conv_in.weight"))] = holder[key]
        else:
            holder[key] = f"{MARK}{len(fragments)}"
            fragments.append(rng.choice(FRAGMENTS))
    text = json.dumps(changed)
    for number, fragment in enumerate(fragments):
        text = text.replace(f'"{MARK}{number}"', fragment)
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each holder and key of a document."""
    held = cast(dict[Any, Any] | list[Any], value)
    for key, inner in [*held.items()] if isinstance(held, dict) else [*enumerate(held)]:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _bytes_changed(raw: bytes, rng: random.Random) -> bytes:
    """A few bytes flipped, removed, repeated or put in."""
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 30))
        what = rng.randrange(4)
        if what == 0 and place < len(changed):
            changed[place] = rng.randrange(256)
        elif what == 1:
            del changed[place : place + length]
        elif what == 2:
            changed[place:place] = changed[place : place + length]
        else:
            changed[place:place] = bytes(rng.choice(b'{}[]",:0123456789-eE\\ \xff\xf0') for _ in range(length))
    return bytes(changed)
