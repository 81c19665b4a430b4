"""Reconstruct photos through one or more VAEs, and leave a strip or a page to look at.

vaelens reconstruct me.jpg --vae ft-mse --vae kl-f8 -o faces.html
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from vaelens.decoding import check_photo_budget
from vaelens.errors import UsageError
from vaelens.files import StrPath, json_text
from vaelens.images.datasets.folders import image_files
from vaelens.images.reading import DecodedImage, decode_file, read_size
from vaelens.images.writing import from_uint8, to_pixels, to_uint8
from vaelens.loading import check_source, vae_of
from vaelens.metrics.psnr import psnr
from vaelens.metrics.ssim import ssim
from vaelens.report import gallery
from vaelens.report.gallery import Cell, Gallery, check_blind
from vaelens.report.panels import Decoder
from vaelens.report.record import file_record, public_name, run_record, vae_facts, vae_record
from vaelens.report.tables import Column, Table
from vaelens.resources import out_of_memory
from vaelens.runtime import Notify, Progress, Runtime
from vaelens.vae import VAE, check_seed, latents_sha256
from vaelens.weights.names import distinct_names
from vaelens.weights.registry import registry

RECORDED = ("photo", "vae", "psnr", "ssim", "padded_to", "latents_sha256", "seconds")
LARGE = 4_000_000  # pixels; attention makes time and memory grow faster than their number
SHEET_NAME = "strip.png"

Posterior = Literal["mode", "sample"]


@dataclass(frozen=True)
class Photo:
    """One photo: uint8 [h,w,3], which takes a quarter of the float image's memory."""

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
    """One photo through one VAE: uint8 [h,w,3], and its scores on these rounded pixels."""

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
    """Photos and their reconstructions, photo by photo, each through every VAE in order."""

    photos: tuple[Photo, ...]
    rows: tuple[Row, ...]
    record: dict[str, Any]

    @property
    def vaes(self) -> list[str]:
        """The VAEs' names, in order."""
        return [vae["name"] for vae in self.record["vaes"]]

    def table(self) -> Table:
        """PSNR (dB) and SSIM (zero-padded), one row per photo and VAE."""
        columns = (Column("image"), Column("VAE"), Column("PSNR", "higher"), Column("SSIM", "higher"))
        return Table(columns, tuple((r.photo, r.vae, f"{r.psnr:.2f}", f"{r.ssim:.4f}") for r in self.rows))

    def notes(self) -> list[str]:
        """What happened to the photos on the way, a sentence each: reading rules that applied, padding."""
        notes = [f"{p.path.name}: {', '.join(p.notes)}." for p in self.photos if p.notes]
        for i, photo in enumerate(self.photos):
            sizes = {row.padded_to for row in self._of(i)} - {photo.size}
            notes += [
                f"{photo.path.name}: {photo.size[1]}x{photo.size[0]} padded to {w}x{h} with edge pixels, cropped back."
                for h, w in sorted(sizes)
            ]
        return notes

    def save(self, path: StrPath, *, blind: bool = False) -> list[Path]:
        """Write a strip (.png), a page (.html) or a folder, and the record, as `Gallery.save`; no photo is lost.

        A `blind` page opens as a blind test of the decoders. Raises UsageError for one of fewer than two.
        """
        check_blind(self.vaes, blind=blind)
        return self._gallery().save(path, [photo.path for photo in self.photos], blind=blind)

    def _gallery(self) -> Gallery:
        """Each photo beside its reconstructions."""
        rows: list[gallery.Row] = []
        for i, photo in enumerate(self.photos):
            cells = [Cell("original", photo.pixels)]
            for row, vae in zip(self._of(i), self.record["vaes"], strict=True):
                caption, note = f"{row.psnr:.2f} dB  SSIM {row.ssim:.3f}", f"{row.psnr:.2f} dB, SSIM {row.ssim:.3f}"
                made_by = Decoder.of(vae), row.latents_sha256
                cells.append(Cell(row.vae, row.pixels, caption, note, self._text([row.vae]), False, *made_by))
            rows.append(gallery.Row(photo.path.name, photo.path.stem, tuple(cells)))
        return Gallery(
            title="Reconstructions",
            sheet_name=SHEET_NAME,
            rows=tuple(rows),
            table=self.table(),
            facts=self._facts(),
            record=self.record,
            text=self._text(self.vaes),
        )

    def _facts(self) -> dict[str, str]:
        settings, versions = self.record["settings"], self.record["versions"]
        facts = {"shown": f"Photos encoded and decoded by {_listed(self.vaes)}."}
        facts |= vae_facts(self.record["vaes"])
        seed = f", seed {settings['seed']}" if settings["posterior"] == "sample" else ""
        facts["posterior"] = settings["posterior"] + seed
        facts["measured"] = "on the 8-bit pixels; SSIM with an 11x11 Gaussian window, zero-padded"
        if self.notes():
            facts["images"] = " ".join(self.notes())
        facts["made with"] = f"vaelens {versions['vaelens']}, torch {versions['torch']}"
        return facts

    def _text(self, vaes: Sequence[str]) -> dict[str, str]:
        """A PNG's text chunks: VAE and fingerprint in words, and everything as JSON, without paths of this machine."""
        public = ("name", "latent_space", "weights", "fingerprint", "dtype")
        used = [{key: vae[key] for key in public} for vae in self.record["vaes"] if vae["name"] in vaes]
        values = {"command": self.record["command"], "settings": self.record["settings"], "vaes": used}
        return {
            "Software": f"vaelens {self.record['versions']['vaelens']}",
            "vae": ", ".join(vaes),
            "fingerprint": ", ".join(vae["weights"] for vae in used),
            "vaelens": json_text(values),
        }

    def _of(self, photo: int) -> tuple[Row, ...]:
        count = len(self.vaes)
        return self.rows[photo * count : (photo + 1) * count]


def reconstruct(
    photos: StrPath | Sequence[StrPath],
    vaes: StrPath | VAE | Sequence[StrPath | VAE] | None = None,
    *,
    posterior: Posterior = "mode",
    seed: int = 0,
    max_side: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    offline: bool = False,
    max_memory: int | str | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Each photo through each VAE (default: the embedded ones), with PSNR and SSIM of the rounded result.

    `photos` are files, or folders for all images in them.
    `posterior` says what is decoded: its mode, or a sample with the noise of `seed`. `max_side` shrinks larger photos
    first; the smaller one then counts as the original. Each VAE encodes and decodes by itself, so VAEs of different
    latent spaces may stand side by side. `max_memory` ("2GB") is by how much running a VAE may let memory grow. The
    other options are `load`'s; `progress` gets (done, total, what) before each image and between its layers. Raises
    what reading, loading and running raise; ResourceError when memory runs out.
    """
    start = time.perf_counter()
    photos = image_files([photos] if isinstance(photos, str | os.PathLike) else photos)
    vaes = registry().embedded() if vaes is None else [vaes] if isinstance(vaes, str | os.PathLike | VAE) else vaes
    if not photos or not vaes:
        raise UsageError(f"no {'VAE' if photos else 'photo'} named. Name at least one.")
    if posterior not in {"mode", "sample"}:
        raise UsageError(f"--posterior must be mode or sample, not {posterior!r}.")
    if max_side is not None and max_side < 1:
        raise UsageError(f"max_side must be at least 1 pixel, not {max_side}.")
    check_seed(seed)
    runtime = Runtime.of(
        device=device, dtype=dtype, offline=offline, max_memory=max_memory, notify=notify, progress=progress
    )
    for source in vaes:
        if not isinstance(source, VAE):
            check_source(source)
    for photo in photos:
        h, w = read_size(photo, max_side)
        if h * w > LARGE and max_side is None and runtime.device.type == "cpu":
            runtime.notify(
                f"Note: {photo} has {h * w / 1e6:.0f} megapixels, which take minutes on a CPU. --max-side 1024 is "
                "faster."
            )
    originals = [_photo(decode_file(photo, max_side=max_side)) for photo in photos]
    by_vae: list[list[Row]] = []
    records: list[dict[str, Any]] = []
    for source in vaes:
        vae = vae_of(source, runtime, space=space)
        name = distinct_names([*(r["name"] for r in records), vae.name], vaes)[-1]
        rows: list[Row] = []
        for original in originals:
            check_photo_budget(vae, str(original.path), original.size)
        for number, original in enumerate(originals):
            done = len(by_vae) * len(originals) + number
            report = partial(_report, runtime, done, len(vaes) * len(originals), f"{original.path.name}, {name}")
            report()
            image = decode_file(original.path, max_side=max_side).image
            with vae.engine.reporting(report):
                rows.append(_row(original, image, vae, name, seed if posterior == "sample" else None))
        by_vae.append(rows)
        records.append(
            vae_record(vae) | {"name": name, "source": source.name if isinstance(source, VAE) else public_name(source)}
        )
    settings = {"posterior": posterior, "seed": seed, "max_side": max_side, "space": space, "offline": offline}
    settings["max_memory"] = runtime.max_memory
    record = run_record("reconstruct", settings, records, time.perf_counter() - start)
    rows = [by_vae[v][p] for p in range(len(originals)) for v in range(len(by_vae))]
    record["images"] = [
        {**file_record(p.path), "height": p.size[0], "width": p.size[1], "notes": list(p.notes)} for p in originals
    ]
    record["rows"] = [{field: getattr(row, field) for field in RECORDED} for row in rows]
    return Reconstruction(tuple(originals), tuple(rows), record)


def check_output(
    path: StrPath, photos: Sequence[StrPath], vaes: Sequence[StrPath | VAE], *, blind: bool = False
) -> None:
    """Raises UsageError where `Reconstruction.save` may not write, or not a `blind` test; called before any work."""
    check_blind(vaes, blind=blind)
    gallery.check_output(path, "reconstruct", SHEET_NAME, image_files(photos), folders=photos, blind=blind)


def _report(runtime: Runtime, done: int, total: int, what: str, part: str = "") -> None:
    runtime.progress(done, total, f"{what}, {part}" if part else what)


def _photo(image: DecodedImage) -> Photo:
    return Photo(image.path, to_pixels(image.image), image.notes)


def _row(photo: Photo, original: Tensor, vae: VAE, name: str, seed: int | None) -> Row:
    h, w = photo.size
    message = (
        f"{photo.path}: out of memory on {vae.device} with {w}x{h} pixels through {name}. Close other programs, "
        "shrink it with --max-side, or run where there is more memory."
    )
    start = time.perf_counter()
    with out_of_memory(message):
        encoded = vae.encode(original)
        latents = encoded.mode() if seed is None else encoded.sample(seed)
        image = to_uint8(vae.decode(latents, encoded.size)).cpu()  # of a GPU's a quarter of the bytes is copied
    seconds = time.perf_counter() - start
    rounded, reference = from_uint8(image), from_uint8(to_uint8(original))
    return Row(
        photo=photo.path.name,
        vae=name,
        pixels=to_pixels(rounded),
        psnr=float(psnr(rounded, reference)),
        ssim=float(ssim(rounded, reference)),
        padded_to=(latents.shape[2] * vae.spec.factor, latents.shape[3] * vae.spec.factor),
        latents_sha256=latents_sha256(latents),
        seconds=round(seconds, 3),
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
