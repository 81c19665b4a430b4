"""Image files with the metadata of other programs, written from their documented forms."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from support.images.written_files import chunk, noise, saved

PIXELS = noise(16, 16)
USER_COMMENT = 0x9286
PNG_TEXTS = ("tEXt", "zTXt", "iTXt", "packed iTXt")
COMMENTS = ("unicode big-endian", "unicode little-endian", "unicode marked", "unicode as utf-8", "ascii", "undefined")
FORMATS = ("JPEG", "WEBP", "PNG", "AVIF")


def quoted(value: object) -> str:
    """As AUTOMATIC1111 quotes a setting."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if {",", ":", "\n"} & set(text) else text


def infotext(prompt: str, negative: str = "", /, **settings: object) -> str:
    """Prompt, negative prompt and the line of settings; `VAE_hash` becomes "VAE hash". JSON objects aren't quoted."""
    first: dict[str, object] = {"Steps": 20, "Sampler": "Euler a", "CFG scale": 7, "Seed": 1, "Size": "512x512"}
    values = first | {name.replace("_", " "): value for name, value in settings.items()}
    line = ", ".join(
        f"{name}: {json.dumps(value) if isinstance(value, dict) else quoted(value)}" for name, value in values.items()
    )
    return "\n".join([prompt, *([f"Negative prompt: {negative}"] if negative else []), line])


def automatic1111(
    vae: str | None, digest: str | None, prompt: str = "a castle", negative: str = "blurry", **more: object
) -> str:
    """As version 1.10 writes it."""
    named = {"VAE_hash": digest, "VAE": vae}
    settings = {"Model_hash": "6ce0161689", "Model": "v1-5-pruned-emaonly"}
    settings |= {name: value for name, value in named.items() if value is not None}
    return infotext(prompt, negative, **settings, **more, Version="v1.10.1")


def forge(*modules: str, prompt: str = "a castle") -> str:
    """As version 2.0 writes it."""
    numbered = {f"Module_{i + 1}": module for i, module in enumerate(modules)}
    version = {"Version": "f2.0.1v1.10.1-previous-669-gdfdcbab6"}
    return infotext(prompt, Model_hash="e6da438d1a", Model="flux1-dev-Q8_0", **version, **numbered)


def sd_next(vae: str | None, prompt: str = "a castle") -> str:
    """As the version of September 2025 writes it: no hash, the name without its suffix, an empty negative prompt."""
    named = {} if vae is None else {"VAE": vae}
    written = infotext(
        prompt, App="SD.Next", Version="0c7038e", Pipeline="StableDiffusionPipeline", Operations="txt2img", **named
    )
    head, _, line = written.rpartition("\n")
    return f"{head}\nNegative prompt: \n{line}"


def png_with(texts: dict[str, str], kind: str = "iTXt") -> bytes:
    """A PNG with each text in a chunk of a kind of PNG_TEXTS."""
    chunks = [_text_chunk(kind, key, text) for key, text in texts.items()]
    whole = saved(PIXELS, "PNG")
    place = whole.index(b"IDAT") - 4
    return whole[:place] + b"".join(chunks) + whole[place:]


def _text_chunk(kind: str, key: str, text: str) -> bytes:
    head = key.encode("latin-1") + b"\0"
    match kind:
        case "tEXt":
            return chunk(b"tEXt", head + text.encode("latin-1"))
        case "zTXt":
            return chunk(b"zTXt", head + b"\0" + zlib.compress(text.encode("latin-1")))
        case "packed iTXt":
            return chunk(b"iTXt", head + b"\1\0\0\0" + zlib.compress(text.encode()))
        case _:
            return chunk(b"iTXt", head + b"\0\0\0\0" + text.encode())


def comment(text: str, kind: str) -> bytes:
    """A UserComment's bytes in one of COMMENTS; piexif, which AUTOMATIC1111 uses, writes big-endian."""
    match kind:
        case "unicode big-endian":
            return b"UNICODE\0" + text.encode("utf-16-be")
        case "unicode little-endian":
            return b"UNICODE\0" + text.encode("utf-16-le")
        case "unicode marked":
            return b"UNICODE\0\xff\xfe" + text.encode("utf-16-le")
        case "unicode as utf-8":
            return b"UNICODE\0" + text.encode()
        case "ascii":
            return b"ASCII\0\0\0" + text.encode()
        case _:
            return bytes(8) + text.encode()


def commented(text: str, form: str, kind: str = "unicode big-endian") -> bytes:
    """An image file of a format with a UserComment."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[USER_COMMENT] = comment(text, kind)
    return saved(PIXELS, form, exif=exif.tobytes())


def comfyui_webp(prompt: Any, workflow: Any) -> bytes:
    """As ComfyUI writes a WebP: the graphs as the camera's model and make."""
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(prompt)}"
    exif[0x010F] = f"workflow:{json.dumps(workflow)}"
    return saved(PIXELS, "WEBP", exif=exif, lossless=True)


def comfyui_animation(prompt: Any) -> bytes:
    """As ComfyUI writes an animated PNG: a chunk of its own, behind the pixels."""
    whole = saved(PIXELS, "PNG")
    end = whole.index(b"IEND") - 4
    return whole[:end] + chunk(b"comf", b"prompt\0" + json.dumps(prompt).encode()) + whole[end:]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node of ComfyUI's graph."""
    return {"class_type": kind, "inputs": inputs}


def decoding_graph(loader: dict[str, Any], output: int = 0, **between: dict[str, Any]) -> dict[str, Any]:
    """A graph that samples, decodes by what `loader` gives at an output, and saves; `between` are more nodes."""
    return {
        "3": node("KSampler", seed=1, steps=20, model=["4", 0], latent_image=["5", 0]),
        "4": node("UNETLoader", unet_name="flux1-dev.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "8": node("VAEDecode", samples=["3", 0], vae=["10", output]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="ComfyUI"),
        "10": loader,
    } | {name.removeprefix("n"): one for name, one in between.items()}


def drawn(graph: dict[str, Any]) -> dict[str, Any]:
    """A graph as the editor draws it: numbered links, widgets without names."""
    nodes, links = [], []
    for name, one in graph.items():
        inputs = []
        widgets = []
        for key, value in one["inputs"].items():
            if isinstance(value, list):
                links.append([len(links) + 1, int(value[0]), value[1], int(name), 0, "ANY"])
                inputs.append({"name": key, "type": "ANY", "link": len(links)})
            else:
                widgets.append(value)
        kind = one["class_type"]
        nodes.append({"id": int(name), "type": kind, "mode": 0, "inputs": inputs, "widgets_values": widgets})
    return {"last_node_id": 99, "nodes": nodes, "links": links, "version": 0.4}


def written(folder: Path, data: bytes, name: str = "image.png") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def exif_directory(entries: list[tuple[int, int, bytes]]) -> bytes:
    """EXIF data of one directory with entries of tag, type and content."""
    out, rest = io.BytesIO(), io.BytesIO()
    start = 8 + 2 + 12 * len(entries) + 4
    out.write(b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)))
    for tag, kind, content in entries:
        value = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", start + rest.tell())
        out.write(struct.pack("<HHI", tag, kind, len(content)) + value)
        rest.write(content if len(content) > 4 else b"")
    return out.getvalue() + bytes(4) + rest.getvalue()
