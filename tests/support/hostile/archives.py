"""Whole files with tricks in the zip or the stream around a table; each by its name."""

import io
import pickle
import struct
import zipfile

from support.hostile.code import unsafe
from support.hostile.parts import COMMAND, STORAGE, SYSTEM, VERSION, as_legacy, as_zip, calls, table, text, zipped


def archives() -> dict[str, bytes]:
    """Whole files with tricks in the zip or the stream around a harmless table; each is refused."""
    whole, run = as_zip(table()), as_zip(unsafe()["reduce os.system"])
    end = whole.rindex(b"PK\x05\x06")
    first = whole.index(b"PK\x01\x02")
    legacy = as_legacy(table())

    def patched(at: int, new: bytes, content: bytes = whole) -> bytes:
        return content[:at] + new + content[at + len(new) :]

    compressed = io.BytesIO()
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", table() + bytes(10_000_000))
    return {
        "bad CRC of the table": patched(whole.index(b"archive/data.pkl") + 16 + len(table()) - 2, b"0"),
        "bad CRC of the storage": whole.replace(STORAGE, struct.pack("<2f", 1.5, 2.0)),
        "compressed": compressed.getvalue(),
        "encrypted": patched(first + 8, b"\x01\x00", patched(6, b"\x01\x00")),
        "two tables": zipped({"a/data.pkl": table(), "b/data.pkl": unsafe()["reduce os.system"], "a/data/0": STORAGE}),
        "another name in the member's own header": patched(30, b"archivf"),
        "another size in the member's own header": patched(22, b"\x05"),
        "another method in the member's own header": patched(8, b"\x08"),
        "a table from another place": patched(first + 42, struct.pack("<I", whole.index(b"PK\x03\x04", 4))),
        "a place behind the end": patched(first + 42, struct.pack("<I", 2**31)),
        "a size of 4 GB": patched(first + 20, b"\xfe\xff\xff\xff\xfe\xff\xff\xff"),
        "a size in zip64 that is missing": patched(first + 20, b"\xff" * 8),
        "more members than there are": patched(end + 8, b"\xff\xff\xff\xff"),
        "fewer members than there are": patched(end + 8, b"\x01\x00\x01\x00"),
        "a directory elsewhere": patched(end + 16, struct.pack("<I", 1)),
        "a split archive": patched(end + 4, b"\x01\x00"),
        "bytes behind the end": whole + b"#!/bin/sh\n",
        "a second archive behind the end": whole + run,
        "an archive behind a table": run[:-22] + whole,
        "a comment that isn't": patched(end + 20, b"\x10\x00"),
        "cut in the directory": whole[: first + 30],
        "cut in the end": whole[:-5],
        "no end": whole[:first],
        "no table": zipped({"archive/data/0": STORAGE}),
        "a table that is an archive": as_zip(run),
        "a storage that is missing": zipped({"archive/data.pkl": table()}),
        "a storage that is short": as_zip(table(), **{"archive/data/0": STORAGE[:4]}),
        "big-endian": as_zip(table(), **{"archive/byteorder": b"big"}),
        "a name that isn't UTF-8": whole.replace(b"archive/version", b"archive/versio\xff"),
        "legacy: another version": legacy.replace(VERSION, b"\x80\x02M\xe8\x03."),
        "legacy: big-endian": legacy.replace(SYSTEM, pickle.dumps({"little_endian": False}, 2)),
        "legacy: a storage twice": legacy.replace(pickle.dumps(["0"], 2), pickle.dumps(["0", "0"], 2)),
        "legacy: another storage": legacy.replace(pickle.dumps(["0"], 2), pickle.dumps(["1"], 2)),
        "legacy: no list of storages": legacy.replace(pickle.dumps(["0"], 2), pickle.dumps({"0": 1}, 2)),
        "legacy: a storage of 2^62": legacy.replace(struct.pack("<q", 2) + STORAGE, struct.pack("<q", 2**62) + STORAGE),
        "legacy: a storage of minus one": legacy.replace(
            struct.pack("<q", 2) + STORAGE, struct.pack("<q", -1) + STORAGE
        ),
        "legacy: cut": legacy[:-3],
        "legacy: bytes behind the end": legacy + b"#!/bin/sh\n",
        "legacy: a view beyond its storage": legacy.replace(b"K\x02NtQ", b"K\x02(" + text("v") + b"K\x01K\x02ttQ"),
        "a table without its storages": table(),
        "a tar": b"pickle".ljust(257, b"\0") + b"ustar\0" + bytes(1000),
    }


def polyglots() -> dict[str, bytes]:
    """Whole files with code outside of the table: refused as unsafe, whichever pickle of the stream asks for it."""
    run = b"\x80\x02" + calls("os.system", COMMAND) + b"."
    legacy = as_legacy(table())
    return {
        "legacy: in place of the magic number": run + legacy,
        "legacy: in place of the version": legacy.replace(VERSION, run),
        "legacy: in place of the system": legacy.replace(SYSTEM, run),
        "legacy: in place of the storages' list": legacy.replace(pickle.dumps(["0"], 2), run),
        "torchscript": zipped({"m/data.pkl": table(), "m/code/__torch__.py": b"import os", "m/constants.pkl": run}),
    }
