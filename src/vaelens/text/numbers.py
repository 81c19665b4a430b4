"""Texts to numbers, strictly, and numbers with their nouns.

Python's int and float also take underscores, blanks and the digits of other scripts.
"""

import math
import re
from fractions import Fraction

LONGEST = 100  # characters of a number
INTEGER = re.compile(r"[+-]?[0-9]{1,25}")  # 2^64 has 20 digits
DIGITS = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
AMOUNT = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(?: ?([A-Za-z]{1,3}))?")
UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**n for n, letter in enumerate("kMGT", 1)},
    **{f"{letter}iB": 1024**n for n, letter in enumerate("KMGT", 1)},
}


def parse_integer(text: str) -> int:
    """A whole number in ASCII digits, of at most 25. Raises ValueError for anything else."""
    if INTEGER.fullmatch(text) is None:
        raise ValueError("too large" if DIGITS.fullmatch(text) else "not a whole number")
    return int(text)


def parse_number(text: str) -> float:
    """A finite number in ASCII, such as -1.5e-3. Raises ValueError for anything else, NaN and infinity included."""
    if len(text) > LONGEST or NUMBER.fullmatch(text) is None:
        raise ValueError("too large" if DIGITS.fullmatch(text) else "not a number")
    if not math.isfinite(number := float(text)):
        raise ValueError("not a number that can be computed with: it is too large")
    return number


def parse_bytes(text: str) -> int:
    """An amount of memory in bytes, rounded down: "2GB" (10^9), "1.5 GiB" (2^30), "512MB", or plain bytes.

    Upper and lower case are the same. Raises ValueError for anything else, and for less than a byte.
    """
    found = AMOUNT.fullmatch(text)
    unit = None if found is None else {name.lower(): n for name, n in UNITS.items()}.get((found[2] or "B").lower())
    if found is None or unit is None:
        raise ValueError("not an amount of memory, such as 2GB, 512MB or 1.5GiB")
    amount = int(Fraction(found[1]) * unit)
    if amount < 1:
        raise ValueError("less than a byte")
    return amount


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 image, 1,000 images. `plural` is the noun's where it isn't the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
