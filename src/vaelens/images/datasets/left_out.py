"""What a dataset leaves out, and why: files whose suffixes aren't those of images that are read."""

import re
from collections import Counter
from collections.abc import Mapping

from vaelens.text.numbers import counted

SHOWN = 5  # suffixes in a note
USUAL = re.compile(r"\.[a-z0-9]{1,10}")

# Of images in formats that Pillow doesn't open, or that `reading.FORMATS` leaves out.
UNREAD = {
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".wdp", ".svg", ".svgz", ".eps", ".ps", ".pdf", ".psd", ".psb", ".xcf"),
    *(".ai", ".tga", ".ico", ".icns", ".cur", ".pcx", ".dds", ".qoi", ".sgi", ".exr", ".hdr", ".pfm", ".dib", ".flif"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".bpg", ".wmf", ".emf", ".fits"),
}


def note_on_left_out(suffixes: Mapping[str, int], reasons: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """How many files were left out and why, as a note; nothing where none was.

    suffixes: how many files had which suffix, in lower case; reasons: how many images were left out for another reason,
    which is said in words.
    """
    unread = Counter({name: count for name, count in suffixes.items() if name in UNREAD})
    others = Counter[str]()
    for name, count in suffixes.items():
        if name not in UNREAD:
            others[name if USUAL.fullmatch(name) else "with another suffix" if name else "without a suffix"] += count
    parts = [f"{count:,} {reason}" for reason, count in (reasons or {}).items()]
    parts += [f"{_listed(unread)} (formats that aren't read: convert them to PNG or JPEG)"] if unread else []
    parts += [f"{_listed(others)} (not images)"] if others else []
    total = unread.total() + others.total() + sum((reasons or {}).values())
    return (f"{counted(total, 'file')} left out: {'; '.join(parts)}",) if parts else ()


def _listed(counts: Counter[str]) -> str:
    order = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:SHOWN]
    found = [f"{count:,} {name}" for name, count in order]
    return ", ".join([*found, "..."] if len(counts) > SHOWN else found)
