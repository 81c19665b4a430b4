"""What known VAEs are by their values, recorded in the user's cache folder when a published file is first read.

The registry was written without the published weights, so it has their files' sha256 but no fingerprints. The first
time that a file with a known sha256 is read, its content is kept here, and identifies copies of the same weights even
after the file itself is gone.
"""

import functools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaelens.errors import VaelensError
from vaelens.files import checked_json, read_checked_json, sha256_file, write_atomic
from vaelens.text.paths import cache_folder
from vaelens.weights.fingerprint import Content, Digests, Fingerprint, HalfContent, content
from vaelens.weights.reading import VAEWeights, read_vae
from vaelens.weights.registry import embedded_paths, registry

SCHEMA = 1
FILE = "known-contents.json"


@dataclass(frozen=True)
class RecordedContent:
    """A published file's content: the VAE's name in the tables of known files, its family and the file's sha256."""

    vae: str
    family: str
    sha256: str
    content: Content

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "RecordedContent":
        """From what `asdict` gave, read back. Raises TypeError, KeyError or ValueError for anything else."""
        halves = (_half(record["content"][name]) for name in ("encoder", "decoder"))
        vae, family, sha256 = record["vae"], record["family"], record["sha256"]
        if not all(isinstance(text, str) for text in (vae, family, sha256)):
            raise TypeError("a name isn't text")
        return cls(vae, family, sha256, Content(*halves))


def recorded_contents() -> tuple[RecordedContent, ...]:
    """All that were recorded on this machine; none where the file is missing or isn't what `record_content` wrote."""
    return _recorded() or ()


def is_recorded(vae: str) -> bool:
    """Whether some published file of this VAE was recorded."""
    return any(one.vae == vae for one in recorded_contents())


def record_first_reading(vae: str, weights: VAEWeights, sha256: str | None = None) -> None:
    """Record a known VAE, just read from one of its published files, unless one of these is recorded already.

    `sha256` is the file's, where it was checked. Files that hold one half each aren't recorded.
    """
    if len(weights.files) == 1 and not is_recorded(vae):
        family = weights.spec.family
        digest = sha256 or sha256_file(weights.files[0])
        record_content(RecordedContent(vae, family.name, digest, content(weights.tensors, family)))


def known_fingerprint(vae: str) -> Fingerprint | None:
    """The fingerprint of a VAE of the registry: an embedded one's, or the recorded one; None if not yet recorded."""
    entry = registry().find(vae)
    if entry.embedded:
        first, *others = embedded_paths(entry)
        return read_vae(first, name=vae, other_files=others).fingerprint
    found = next((one for one in recorded_contents() if one.vae == vae), None)
    return None if found is None else found.content.fingerprint


def record_content(new: RecordedContent) -> None:
    """Keep a content, in the place of an earlier one of the same file.

    Where nothing can be written it isn't kept, as nobody asked for it; nor where another version of vaelens wrote the
    file, whose entries would be lost. A damaged file is replaced. Of two processes that write at the same time one may
    lose its entry, which the next reading of that file writes again.
    """
    recorded = _recorded()
    if recorded is None:
        return
    kept = [one for one in recorded if one.sha256 != new.sha256]
    with suppress(VaelensError, OSError):
        write_atomic(_path(), checked_json({"schema": SCHEMA, "contents": [asdict(one) for one in (*kept, new)]}))


def _recorded() -> tuple[RecordedContent, ...] | None:
    """All that were recorded; None where the file can't be reached or is another version's."""
    try:
        path = _path()
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, VaelensError):  # nothing recorded yet, or no home folder
        return ()
    except OSError:
        return None
    return _parsed(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=1)
def _parsed(path: Path, _mtime: int, _size: int) -> tuple[RecordedContent, ...] | None:
    try:
        record = read_checked_json(path.read_bytes())
        if record["schema"] != SCHEMA:
            return None
        return tuple(RecordedContent.of(one) for one in record["contents"])
    except OSError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):  # damaged
        return ()


def _half(record: Mapping[str, Any]) -> HalfContent:
    return HalfContent(Digests(**record["digests"]), str(record["values"]), tuple(record["exact_in"]))


def _path() -> Path:
    return cache_folder() / FILE
