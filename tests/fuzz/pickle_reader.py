"""Fuzzes the pickle reader, guided by coverage: whatever the bytes, it ends with tensors or with our own errors.

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris -e .        # Python 3.11 to 3.13
    /tmp/fuzz/bin/python tests/fuzz/pickle_reader.py -max_total_time=1200 -max_len=65536 /tmp/found tests/fuzz/corpus

The reader's core needs no torch, so it is fuzzed without a file: its bytes in both formats, then the table of tensors.
Any other exception, an import, a call of the system, or a second of time is a finding. What was found goes into the
corpus once it is mended; `tests/tensors/pickles/test_corpus.py` replays that.
"""

import struct
import sys
import zlib

import atheris

with atheris.instrument_imports(include=["vaelens.tensors.pickles"]):
    from vaelens.tensors.pickles.budget import Budget
    from vaelens.tensors.pickles.pickled_bytes import read_pickled
    from vaelens.tensors.pickles.refusals import UnsafePickleError, WrongPickleError

FORBIDDEN = ("import", "exec", "compile", "open", "os.", "subprocess.", "socket.", "ctypes.", "pickle.", "shutil.")
LOCAL, ENTRY, END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
running = False


def archive(pickled: bytes) -> bytes:
    """A whole zip archive as PyTorch writes it, around a pickle, so that the fuzzer needn't find checksums."""
    out, directory = b"", b""
    members = {"a/data.pkl": pickled, "a/byteorder": b"little", "a/data/0": bytes(64), "a/data/1": bytes(16)}
    for name, content in members.items():
        raw, crc, size = name.encode(), zlib.crc32(content), len(content)
        directory += (
            ENTRY.pack(b"PK\x01\x02", 0, 0, 0, 0, 0, 0, crc, size, size, len(raw), 0, 0, 0, 0, 0, len(out)) + raw
        )
        out += LOCAL.pack(b"PK\x03\x04", 0, 0, 0, 0, 0, crc, size, size, len(raw), 0) + raw + content
    end = END.pack(b"PK\x05\x06", 0, 0, len(members), len(members), len(directory), len(out), 0)
    return out + directory + end


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: ends the run at anything that reading must not do."""
    if running and event.startswith(FORBIDDEN):
        raise RuntimeError(f"the reader caused {event} {arguments!r:.200}")


def check(data: bytes) -> None:
    """One input: as a file of either format, and as the pickle inside a whole archive."""
    global running  # noqa: PLW0603 - the hook has no other way to know
    for content in (data, archive(data)):
        running = True
        try:
            tensors, _ = read_pickled(content, Budget(len(content)), is_zip=content.startswith(b"PK\x03\x04"))
            for tensor in tensors.values():
                if tensor.storage is not None:
                    end = tensor.begin + tensor.extent
                    assert tensor.storage.place is not None
                    assert 0 <= tensor.begin <= end <= max(tensor.storage.size, end if not tensor.extent else 0)
                    assert tensor.storage.place + tensor.storage.size <= len(content)
        except (WrongPickleError, UnsafePickleError):
            pass
        finally:
            running = False


if __name__ == "__main__":
    sys.addaudithook(watch)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
