"""Reconstruct photographs through one or more VAEs, and leave a strip or a page to look at.

vaelens reconstruct me.jpg --vae ft-mse --vae kl-f8 -o faces.html
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from torch import Tensor

from vaelens.errors import ResourceError, UsageError, is_out_of_memory
from vaelens.files import writable_path, write_atomic
from vaelens.images.reading import SUFFIXES, Picture, check_picture, read_picture
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.images.writing import encode_png, from_uint8, to_pixels, to_uint8
from vaelens.loading import check_source, distinct_names, find_device, find_dtype, load
from vaelens.metrics.psnr import psnr
from vaelens.metrics.ssim import ssim
from vaelens.report.page import Layer, Panel, render_page
from vaelens.report.record import json_text, run_record, vae_record
from vaelens.report.tables import Column, Table
from vaelens.vae import VAE, check_seed
from vaelens.weights.registry import registry

RECORDED = ("photo", "vae", "psnr", "ssim", "padded_to", "latents_sha256", "seconds")
LARGE = 4_000_000  # pixels; four times as many take more than four times as long, by the attention
SINGLE = {".png", ".html", ".htm"}

Source = str | os.PathLike[str]
Posterior = Literal["mode", "sample"]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Photo:
    """One photograph as it is kept: uint8 [h,w,3], a quarter of the float image, which is read again when needed."""

    path: Path
    pixels: np.ndarray
    notes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        h, w = self.pixels.shape[:2]
        return h, w


@dataclass(frozen=True)
class Row:
    """One picture through one VAE: uint8 [h,w,3] and what was measured on those rounded pixels."""

    photo: str
    vae: str
    pixels: np.ndarray
    psnr: float
    ssim: float
    padded_to: tuple[int, int]  # height and width that the network saw
    latents_sha256: str
    seconds: float


@dataclass(frozen=True)
class Reconstruction:
    """Photographs and their reconstructions, photo by photo, each through every VAE in order."""

    photos: tuple[Photo, ...]
    rows: tuple[Row, ...]
    record: dict[str, Any]

    @property
    def vaes(self) -> list[str]:
        """The VAEs' names, in order."""
        return [vae["name"] for vae in self.record["vaes"]]

    def table(self) -> Table:
        """PSNR (dB) and SSIM (zero-padded), a row a picture and VAE."""
        columns = (Column("picture"), Column("VAE"), Column("PSNR", "higher"), Column("SSIM", "higher"))
        return Table(columns, tuple((r.photo, r.vae, f"{r.psnr:.2f}", f"{r.ssim:.4f}") for r in self.rows))

    def notes(self) -> list[str]:
        """What was done to the photographs on the way, a sentence each: reading rules that applied, padding."""
        notes = [f"{p.path.name}: {', '.join(p.notes)}." for p in self.photos if p.notes]
        for i, photo in enumerate(self.photos):
            sizes = {row.padded_to for row in self._of(i)} - {photo.size}
            notes += [
                f"{photo.path.name}: {photo.size[1]}x{photo.size[0]} padded to {w}x{h} by its edge, and cropped back."
                for h, w in sorted(sizes)
            ]
        return notes

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write what the path asks for, and the record; gives the files written, the first to look at first.

        `.png` is one strip, `.html` one page, each with its record beside it; anything else is a folder
        with both, the record and each reconstruction alone.
        """
        target = Path(path)
        check_output(target, [photo.path for photo in self.photos])
        page, strip, record = self._page, self._strip, self._json
        if target.suffix.lower() in SINGLE:
            contents = dict(zip(_outputs(target), (strip() if _is_strip(target) else page(), record()), strict=True))
        else:
            contents = dict(zip(_outputs(target), (page(), strip(), record()), strict=True))
            for number, row in enumerate(self.rows):
                photo, vae = divmod(number, len(self.vaes))
                name = f"{photo + 1:03d}-{_file_name(Path(row.photo).stem)}-{vae + 1}-{_file_name(row.vae)}.png"
                contents[target / name] = encode_png(row.pixels, self._text([row.vae]))
        _check_targets(list(contents), [photo.path for photo in self.photos])
        for file, content in contents.items():
            write_atomic(file, content)
        return list(contents)

    def _strip(self) -> bytes:
        rows = [
            SheetRow(
                photo.path.name,
                (photo.pixels, *(row.pixels for row in self._of(i))),
                ("", *(f"{row.psnr:.2f} dB  SSIM {row.ssim:.3f}" for row in self._of(i))),
            )
            for i, photo in enumerate(self.photos)
        ]
        return encode_png(draw_sheet(rows, ["original", *self.vaes]), self._text(self.vaes))

    def _page(self) -> bytes:
        panels: list[Panel] = []
        for i, photo in enumerate(self.photos):
            h, w = photo.size
            original = Layer("original", encode_png(photo.pixels), "")
            layers = (Layer(r.vae, encode_png(r.pixels), f"{r.psnr:.2f} dB, SSIM {r.ssim:.3f}") for r in self._of(i))
            panels.append(Panel(photo.path.name, w, h, (original, *layers)))
        return render_page("Reconstructions", panels, self.table(), self._facts()).encode()

    def _facts(self) -> dict[str, str]:
        settings, versions = self.record["settings"], self.record["versions"]
        facts = {"shown": f"Photographs encoded and decoded by {_listed(self.vaes)}."}
        for vae in self.record["vaes"]:
            space = vae["latent_space"] or "its own"
            facts[vae["name"]] = (
                f"latent space {space}, {vae['dtype']} on {vae['device']}, weights (encoder-decoder) {vae['weights']}"
            )
        seed = f", seed {settings['seed']}" if settings["posterior"] == "sample" else ""
        facts["posterior"] = settings["posterior"] + seed
        facts["measured"] = "on the 8-bit pixels; SSIM with an 11x11 Gaussian window, zero-padded"
        if self.notes():
            facts["pictures"] = " ".join(self.notes())
        facts["made with"] = f"vaelens {versions['vaelens']}, torch {versions['torch']}"
        return facts

    def _text(self, vaes: Sequence[str]) -> dict[str, str]:
        """A PNG's text chunks: VAE and fingerprint in words, and all of it as JSON."""
        kept = ("name", "latent_space", "weights", "fingerprint", "dtype")  # no path of this machine goes along
        served = [{k: vae[k] for k in kept} for vae in self.record["vaes"] if vae["name"] in vaes]
        chunk = {"command": self.record["command"], "settings": self.record["settings"], "vaes": served}
        return {
            "Software": f"vaelens {self.record['versions']['vaelens']}",
            "vae": ", ".join(vaes),
            "fingerprint": ", ".join(vae["weights"] for vae in served),
            "vaelens": json_text(chunk),
        }

    def _of(self, photo: int) -> tuple[Row, ...]:
        count = len(self.vaes)
        return self.rows[photo * count : (photo + 1) * count]

    def _json(self) -> bytes:
        return (json_text(self.record) + "\n").encode()


def reconstruct(
    photos: Source | Sequence[Source],
    vaes: Source | VAE | Sequence[Source | VAE] | None = None,
    *,
    posterior: Posterior = "mode",
    seed: int = 0,
    max_side: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    offline: bool = False,
    announce: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Each photograph through each VAE (by default the embedded ones), with PSNR and SSIM of the rounded result.

    `posterior` decodes its mode, or a sample drawn with `seed`. `max_side` shrinks larger photographs
    first (the reduced one is then the original). Each VAE encodes and decodes by itself, so VAEs of
    different latent spaces may stand side by side. The other options are `load`'s; `progress` gets
    (done, total, what) before each picture. Raises what reading, loading and running raise;
    ResourceError when memory runs out.
    """
    began = time.perf_counter()
    photos = [photos] if isinstance(photos, str | os.PathLike) else photos
    vaes = registry().embedded() if vaes is None else [vaes] if isinstance(vaes, str | os.PathLike | VAE) else vaes
    if not photos or not vaes:
        raise UsageError(f"no {'VAE' if photos else 'photograph'} named. Name at least one.")
    if posterior not in {"mode", "sample"}:
        raise UsageError(f"posterior is mode or sample, not {posterior!r}.")
    if max_side is not None and max_side < 1:
        raise UsageError(f"max_side is at least 1 pixel, not {max_side}.")
    check_seed(seed)
    find_device(device)
    find_dtype(dtype)
    for source in vaes:
        if not isinstance(source, VAE):
            check_source(source)
    for photo in photos:
        h, w = check_picture(photo)
        if h * w > LARGE and max_side is None and find_device(device).type == "cpu" and announce:
            announce(
                f"{photo}: {h * w / 1e6:.0f} megapixels take minutes and many GB of memory on a CPU; "
                "--max-side 1024 is quick."
            )
    pictures = [_photo(read_picture(photo, max_side=max_side)) for photo in photos]
    by_vae: list[list[Row]] = []
    records: list[dict[str, Any]] = []
    for source in vaes:
        vae = source if isinstance(source, VAE) else load(
            source, device=device, dtype=dtype, space=space, offline=offline, announce=announce
        )  # fmt: skip
        name = distinct_names([*(r["name"] for r in records), vae.name])[-1]
        rows: list[Row] = []
        for number, picture in enumerate(pictures):
            if progress:
                done = len(by_vae) * len(pictures) + number
                progress(done, len(vaes) * len(pictures), f"{picture.path.name}, {name}")
            image = read_picture(picture.path, max_side=max_side).image
            rows.append(_row(picture, image, vae, name, seed if posterior == "sample" else None))
        by_vae.append(rows)
        records.append(vae_record(vae) | {"name": name, "source": vae.name if source is vae else str(source)})
    settings = {"posterior": posterior, "seed": seed, "max_side": max_side, "space": space, "offline": offline}
    record = run_record("reconstruct", settings, records, time.perf_counter() - began)
    rows = [by_vae[v][p] for p in range(len(pictures)) for v in range(len(by_vae))]
    record["pictures"] = [
        {"file": str(p.path), "height": p.size[0], "width": p.size[1], "notes": list(p.notes)} for p in pictures
    ]
    record["rows"] = [{field: getattr(row, field) for field in RECORDED} for row in rows]
    return Reconstruction(tuple(pictures), tuple(rows), record)


def check_output(path: str | os.PathLike[str], photos: Sequence[str | os.PathLike[str]]) -> None:
    """Whether `Reconstruction.save` may write there, asked before any work. Raises UsageError."""
    target = Path(path)
    single = target.suffix.lower() in SINGLE
    if not single and not target.is_dir() and (target.exists() or target.suffix.lower() in SUFFIXES):
        raise UsageError(f"-o {target}: an output is a .png strip, an .html page or a folder.")
    _check_targets(_outputs(target), photos)
    lost = [file for file in _outputs(target) if not single and file.exists()]
    if lost and not _is_ours(target / "run.json"):
        raise UsageError(f"{lost[0]} was not made by vaelens and would be lost. Choose another folder.")


def _is_ours(record: Path) -> bool:
    """Whether a folder's run.json is the record of an earlier reconstruction, whose files may be replaced."""
    try:
        values = json.loads(record.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"schema", "vaes", "rows"} <= set(cast(dict[str, Any], values))


def _outputs(target: Path) -> list[Path]:
    """The files that an output path stands for, but for the single reconstructions in a folder."""
    if target.suffix.lower() in SINGLE:
        return [target, target.with_suffix(".run.json")]
    return [target / "index.html", target / "strip.png", target / "run.json"]


def _is_strip(target: Path) -> bool:
    return target.suffix.lower() == ".png"


def _check_targets(targets: Sequence[Path], photos: Sequence[str | os.PathLike[str]]) -> None:
    """Each may be written, and none is one of the photographs."""
    for target in targets:
        file = writable_path(target)
        if file.exists() and any(Path(photo).exists() and file.samefile(photo) for photo in photos):
            raise UsageError(f"{target} is one of the photographs and would be lost. Choose another output.")


def _photo(picture: Picture) -> Photo:
    return Photo(picture.path, to_pixels(picture.image), picture.notes)


def _row(photo: Photo, original: Tensor, vae: VAE, name: str, seed: int | None) -> Row:
    began = time.perf_counter()
    try:
        encoded = vae.encode(original)
        latents = encoded.mode() if seed is None else encoded.sample(seed)
        image = vae.decode(latents, encoded.size).cpu()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        h, w = photo.size
        raise ResourceError(
            f"{photo.path}: out of memory on {vae.device} with {w}x{h} pixels through {name}. "
            "Shrink it with --max-side 1024, or run where there is more memory."
        ) from error
    seconds = time.perf_counter() - began
    rounded, reference = from_uint8(to_uint8(image)), from_uint8(to_uint8(original))
    return Row(
        photo=photo.path.name,
        vae=name,
        pixels=to_pixels(image),
        psnr=float(psnr(rounded, reference)),
        ssim=float(ssim(rounded, reference)),
        padded_to=(latents.shape[2] * vae.spec.factor, latents.shape[3] * vae.spec.factor),
        latents_sha256=hashlib.sha256(latents.float().cpu().contiguous().numpy().tobytes()).hexdigest(),
        seconds=round(seconds, 3),
    )


def _file_name(text: str) -> str:
    """Text as part of a file name: no separators, nothing hidden, not too long."""
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in text).lstrip(".")
    return kept.encode()[:80].decode(errors="ignore") or "_"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
