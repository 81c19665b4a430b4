"""What a file really is, by its first bytes, whatever it is called: for the messages that refuse it."""

import re
from dataclasses import dataclass
from typing import Literal

HEAD = 1024  # bytes that show what a file is
PICKLE_IN_ZIP = b"data.pkl"  # as PyTorch calls it
ZIP = b"PK\x03\x04"
PICKLE_STARTS = (b"\x80", b"(", b"c", b"}", b"]")  # from the newest protocol to the oldest
SAFETENSORS_HEADER = 100_000_000  # bytes, as the format limits it
DOWNLOAD = "Download the file itself again."
DOWNLOAD_AGAIN = "If this was a download, it may have failed: download it again."
UNPACK = "Unpack it first."
SAVE_RESULT = 'Name the .json file that "Save result" on the test\'s page wrote.'
CONVERT = "Convert it to PNG or JPEG first."

Use = Literal["image", "unread image", "weights", "latents", "pickle", "none"]


@dataclass(frozen=True)
class FileKind:
    """A kind of file: its name with an article, what it is good for here, and what to do with it if that is nothing.

    hint: what may have led to it, and what to do then
    """

    name: str
    use: Use = "none"
    advice: str = ""
    hint: str = ""

    def instead_of_image(self, file: object) -> str:
        """The sentences that refuse it as an image."""
        if self.use == "unread image":
            return f"{file} is {self.name}, which vaelens doesn't read. {self.advice}"
        advice = {
            "weights": "Name a VAE with --vae, latents with `vaelens compare --latents`.",
            "latents": f"Decode it with `vaelens compare --latents {file}`.",
        }.get(self.use, self.advice or "Name an image file.")
        return f"{file} is {self.name}, not an image. {advice} {self.hint}".rstrip()

    def instead_of_weights(self, file: object) -> str:
        """The sentences that refuse it as a file of weights."""
        is_image = self.use in {"image", "unread image"}
        advice = "Name a file of weights; `vaelens reconstruct` takes images." if is_image else self.advice
        advice = advice or "Name the file of weights itself."
        return f"{file} is {self.name}, not a file of weights. {advice} {self.hint}".rstrip()

    def instead_of_result(self, file: object) -> str:
        """The sentences that refuse it as a result of the blind test."""
        advice = UNPACK if self.advice == UNPACK else SAVE_RESULT
        return f"{file} is {self.name}, not a result of the blind test. {advice}"


EMPTY = FileKind("empty", advice="Copy or download it again.")
TEXT = FileKind("a text file", hint=DOWNLOAD_AGAIN)
RENAMED_PICKLE = FileKind("a pickled file under another name", "pickle")
TORCH_ZIP = FileKind("a zip archive with a pickled file, as PyTorch saves it", "pickle")
ARCHIVE = FileKind("a zip archive", advice=UNPACK)
SAFETENSORS = FileKind("a safetensors file", "weights")
LATENTS = FileKind("a safetensors file of latents", "latents")
# How files of latents are known: the metadata and the tensor that vaelens writes, ComfyUI's tensor, and others'.
LATENTS_KEY, LATENTS_TENSOR, COMFYUI_TENSOR = "vaelens_latents", "latents", "latent_tensor"
LATENT_TENSORS = frozenset({LATENTS_TENSOR, COMFYUI_TENSOR, "latent", "samples"})
_IN_HEADER = re.compile(rf'"{LATENTS_KEY}"\s*:|"({"|".join(sorted(LATENT_TENSORS))})"\s*:\s*{{'.encode())
_VIDEO = FileKind("a video", advice="Save a frame of it as PNG.")

_UNDRAWN = "Export it as PNG first."
_BY_START: tuple[tuple[bytes, FileKind], ...] = (
    (b"version https://git-lfs", FileKind("a Git LFS pointer", advice="Run `git lfs pull`, or download the file.")),
    (b"\x89PNG\r\n\x1a\n", FileKind("a PNG image", "image")),
    (b"\xff\xd8\xff", FileKind("a JPEG image", "image")),
    (b"GIF8", FileKind("a GIF image", "image")),
    (b"BM", FileKind("a BMP image", "image")),
    (b"II*\0", FileKind("a TIFF image", "image")),
    (b"MM\0*", FileKind("a TIFF image", "image")),
    (b"\xff\x4f\xff\x51", FileKind("a JPEG 2000 image", "image")),
    (b"\0\0\0\x0cjP  ", FileKind("a JPEG 2000 image", "image")),
    (b"\0\0\0\x0cJXL ", FileKind("a JPEG XL image", "unread image", CONVERT)),
    (b"\xff\x0a", FileKind("a JPEG XL image", "unread image", CONVERT)),
    (b"%!PS", FileKind("an EPS or PostScript file", "unread image", _UNDRAWN)),
    (b"\xc5\xd0\xd3\xc6", FileKind("an EPS file", "unread image", _UNDRAWN)),
    (b"8BPS", FileKind("a PSD file", "unread image", _UNDRAWN)),
    (b"%PDF", FileKind("a PDF file", "unread image", _UNDRAWN)),
    (b"gimp xcf", FileKind("a GIMP file", "unread image", _UNDRAWN)),
    (b"GGUF", FileKind("a GGUF file", advice="Get the .safetensors file of the same weights.")),
    (b"\x89HDF", FileKind("an HDF5 file", advice="Get the .safetensors file of the same weights.")),
    (b"\x93NUMPY", FileKind("a NumPy file", advice="Save it as an image or as safetensors.")),
    (b"PAR1", FileKind("a parquet file", advice="`vaelens evaluate` takes it, under a name that ends in .parquet.")),
    (b"\x1f\x8b", FileKind("a gzip archive", advice=UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", advice=UNPACK)),
    (b"Rar!", FileKind("a RAR archive", advice=UNPACK)),
    (b"\x28\xb5\x2f\xfd", FileKind("a Zstandard archive", advice=UNPACK)),
    (b"\x1aE\xdf\xa3", _VIDEO),
)
_HTML = FileKind("an HTML page", advice=f"The download may have failed, or needs a login. {DOWNLOAD}")
_SVG = FileKind("an SVG drawing", "unread image", _UNDRAWN)
_ERROR = FileKind("a server's error message", advice=DOWNLOAD)
_HEIF = FileKind("a HEIC or HEIF image", "unread image", CONVERT)
_AVIF = FileKind("an AVIF image", "image")
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_WEBP = FileKind("a WebP image", "image")
# In lower case: what servers send in place of a file that is missing, or that needs a login.
_ANSWER = re.compile(
    rb'\{\s*"(error|message|detail|errors)"|(entry|repository) not found|invalid (user|cred)|access to '
)
CONTROL = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")
NETPBM = re.compile(rb"P[1-7fFy]\s")  # an image that begins as text
# Protocols 2 to 5. Older ones are text, and begin as many others do.
PICKLE = re.compile(rb"\x80[\x02-\x05]")


def file_kind(head: bytes) -> FileKind | None:
    """The kind of a file by its first HEAD bytes; None where they tell nothing."""
    if not head:
        return EMPTY
    if (kind := _safetensors(head)) is not None:  # its first bytes are a number: they may be any others'
        return kind
    found = next((kind for start, kind in _BY_START if head.startswith(start)), None)
    return found or _container(head) or _text(head) or (RENAMED_PICKLE if PICKLE.match(head) else None)


def _safetensors(head: bytes) -> FileKind | None:
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= SAFETENSORS_HEADER or head[8:9] != b"{":
        return None
    return LATENTS if _IN_HEADER.search(head) else SAFETENSORS


def _container(head: bytes) -> FileKind | None:
    """A zip, or one of the formats whose name stands behind their first bytes."""
    if head.startswith(ZIP):
        return TORCH_ZIP if PICKLE_IN_ZIP in head else ARCHIVE
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[at : at + 4] for at in (8, *range(16, length, 4))}
        if brands & {b"avif", b"avis"}:
            return _AVIF
        return _HEIF if brands & _HEIF_BRANDS else _VIDEO
    if head.startswith(b"RIFF"):
        return {b"WEBP": _WEBP, b"AVI ": _VIDEO}.get(head[8:12])
    return FileKind("a tar archive", advice=UNPACK) if head[257:262] == b"ustar" else None


def _text(head: bytes) -> FileKind | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return _HTML
    if text.startswith(b"<") and b"<svg" in text:
        return _SVG
    if _ANSWER.match(text):
        return _ERROR
    if CONTROL.search(head) or NETPBM.match(head):
        return None
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return TEXT if error.start > len(head) - 4 > 0 else None  # a character may be cut
    return TEXT
