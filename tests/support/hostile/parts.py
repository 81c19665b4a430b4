"""What hostile pickles are made of: opcodes, and PyTorch's two formats around them. `RAN` is what a payload leaves."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping

RAN = "a-payload-ran"
COMMAND = f"touch {RAN}"
MAGIC, VERSION = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", b"\x80\x02M\xe9\x03."
SYSTEM = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)


def text(value: str) -> bytes:
    """A string of protocol 2."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def named(full: str) -> bytes:
    """GLOBAL."""
    module, _, name = full.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def calls(full: str, *arguments: str) -> bytes:
    """A call by GLOBAL and REDUCE."""
    return named(full) + b"(" + b"".join(map(text, arguments)) + b"tR"


TENSOR = (
    named("torch._utils._rebuild_tensor_v2")
    + b"(("
    + text("storage")
    + named("torch.FloatStorage")
    + text("0")
    + text("cpu")
    + b"K\x02tQK\x00K\x02\x85K\x01\x85\x89)tR"
)


def table(*items: bytes) -> bytes:
    """A pickled table: one honest tensor "w" after the items, which are keys and values."""
    return b"\x80\x04}(" + b"".join(items) + text("w") + TENSOR + b"u."


def item(value: bytes) -> bytes:
    """A key, and this value."""
    return text("x") + value


def stack_global(module: str, name: str) -> bytes:
    """STACK_GLOBAL, of protocol 4."""
    return text(module) + text(name) + b"\x93"


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip archive of stored members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


STORAGE = struct.pack("<2f", 1.5, -2.0)


def as_zip(pickled: bytes, **others: bytes) -> bytes:
    """PyTorch's zip format around a table."""
    return zipped({"archive/data.pkl": pickled, "archive/data/0": STORAGE, "archive/version": b"3\n"} | others)


def as_legacy(pickled: bytes) -> bytes:
    """PyTorch's legacy format around a table."""
    keys = pickle.dumps(["0"], 2)
    return MAGIC + VERSION + SYSTEM + pickled.replace(b"K\x02tQ", b"K\x02NtQ") + keys + struct.pack("<q", 2) + STORAGE
