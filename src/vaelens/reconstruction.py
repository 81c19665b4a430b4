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
from typing import Any, Literal

import numpy as np
import torch

from vaelens.errors import ResourceError, UsageError
from vaelens.files import writable_path, write_atomic
from vaelens.images.reading import Picture, check_picture, read_picture
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.images.writing import encode_png, from_uint8, to_pixels, to_uint8
from vaelens.loading import load
from vaelens.metrics.psnr import psnr
from vaelens.metrics.ssim import ssim
from vaelens.report.page import Layer, Panel, render_page
from vaelens.report.record import run_record, vae_record
from vaelens.report.tables import Column, Table
from vaelens.vae import VAE
from vaelens.weights.registry import registry

RECORDED = ("photo", "vae", "psnr", "ssim", "padded_to", "latents_sha256", "seconds")
SINGLE = {".png", ".html", ".htm"}

Posterior = Literal["mode", "sample"]
Progress = Callable[[int, int, str], None]


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

    photos: tuple[Picture, ...]
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
        if target.suffix.lower() in SINGLE:
            look = self._strip() if target.suffix.lower() == ".png" else self._page().encode()
            contents = {target: look, target.with_suffix(".run.json"): self._json()}
        else:
            contents = {
                target / "index.html": self._page().encode(),
                target / "strip.png": self._strip(),
                target / "run.json": self._json(),
            }
            for number, row in enumerate(self.rows):
                stem = f"{number // len(self.vaes) + 1:03d}-{_file_name(Path(row.photo).stem)}-{_file_name(row.vae)}"
                contents[target / f"{stem}.png"] = encode_png(row.pixels, self._text([row.vae]))
        for file, content in contents.items():
            write_atomic(file, content)
        return list(contents)

    def _strip(self) -> bytes:
        rows = [
            SheetRow(
                photo.path.name,
                (to_pixels(photo.image), *(row.pixels for row in self._of(i))),
                ("", *(f"{row.psnr:.2f} dB  SSIM {row.ssim:.3f}" for row in self._of(i))),
            )
            for i, photo in enumerate(self.photos)
        ]
        return encode_png(draw_sheet(rows, ["original", *self.vaes]), self._text(self.vaes))

    def _page(self) -> str:
        panels: list[Panel] = []
        for i, photo in enumerate(self.photos):
            h, w = photo.size
            original = Layer("original", encode_png(to_pixels(photo.image)), "")
            layers = (Layer(r.vae, encode_png(r.pixels), f"{r.psnr:.2f} dB, SSIM {r.ssim:.3f}") for r in self._of(i))
            panels.append(Panel(photo.path.name, w, h, (original, *layers)))
        return render_page("Reconstructions", panels, self.table(), self._facts())

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
        served = [vae for vae in self.record["vaes"] if vae["name"] in vaes]
        chunk = {"command": self.record["command"], "settings": self.record["settings"], "vaes": served}
        return {
            "Software": f"vaelens {self.record['versions']['vaelens']}",
            "vae": ", ".join(vaes),
            "fingerprint": ", ".join(vae["weights"] for vae in served),
            "vaelens": json.dumps(chunk),
        }

    def _of(self, photo: int) -> tuple[Row, ...]:
        count = len(self.vaes)
        return self.rows[photo * count : (photo + 1) * count]

    def _json(self) -> bytes:
        return (json.dumps(self.record, indent=2) + "\n").encode()


def reconstruct(
    photos: Sequence[str | os.PathLike[str]],
    vaes: Sequence[str | os.PathLike[str] | VAE] | None = None,
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
    """Each photograph through each VAE (by default the embedded one), with PSNR and SSIM of the rounded result.

    `posterior` decodes its mode, or a sample drawn with `seed`. `max_side` shrinks larger photographs
    first (the reduced one is then the original). Each VAE encodes and decodes by itself, so VAEs of
    different latent spaces may stand side by side. The other options are `load`'s; `progress` gets
    (done, total, what) before each picture. Raises what reading, loading and running raise;
    ResourceError when memory runs out.
    """
    began = time.perf_counter()
    if not photos:
        raise UsageError("no photograph named. Name at least one picture file.")
    if posterior not in {"mode", "sample"}:
        raise UsageError(f"posterior is mode or sample, not {posterior!r}.")
    for photo in photos:
        check_picture(photo)
    pictures = [read_picture(photo, max_side=max_side) for photo in photos]
    by_vae: list[list[Row]] = []
    records: list[dict[str, Any]] = []
    vaes = registry().embedded() if vaes is None else vaes
    for source in vaes:
        vae = source if isinstance(source, VAE) else load(
            source, device=device, dtype=dtype, space=space, offline=offline, announce=announce
        )  # fmt: skip
        name = _distinct(vae.name, [r["name"] for r in records])
        rows: list[Row] = []
        for number, picture in enumerate(pictures):
            if progress:
                done = len(by_vae) * len(pictures) + number
                progress(done, len(vaes) * len(pictures), f"{picture.path.name}, {name}")
            rows.append(_row(picture, vae, name, seed if posterior == "sample" else None))
        by_vae.append(rows)
        records.append(vae_record(vae) | {"name": name, "source": vae.name if source is vae else str(source)})
    settings = {"posterior": posterior, "seed": seed, "max_side": max_side, "dtype": dtype}
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
    if not single and (target.is_file() or target.suffix):
        raise UsageError(f"{target}: the output is a .png strip, an .html page or a folder.")
    written = writable_path(target if single else target / "index.html")
    for photo in photos:
        if single and Path(photo).exists() and written.exists() and written.samefile(photo):
            raise UsageError(f"{target} is one of the photographs and would be lost. Choose another output.")


def _row(picture: Picture, vae: VAE, name: str, seed: int | None) -> Row:
    began = time.perf_counter()
    try:
        encoded = vae.encode(picture.image)
        latents = encoded.mode() if seed is None else encoded.sample(seed)
        image = vae.decode(latents, encoded.size).cpu()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        h, w = picture.size
        raise ResourceError(
            f"{picture.path}: out of memory on {vae.device} with {w}x{h} pixels through {name}. "
            "Shrink it with --max-side 1024, or run where there is more memory."
        ) from error
    seconds = time.perf_counter() - began
    rounded, reference = from_uint8(to_uint8(image)), from_uint8(to_uint8(picture.image))
    return Row(
        photo=picture.path.name,
        vae=name,
        pixels=to_pixels(image),
        psnr=float(psnr(rounded, reference)),
        ssim=float(ssim(rounded, reference)),
        padded_to=(latents.shape[2] * vae.spec.factor, latents.shape[3] * vae.spec.factor),
        latents_sha256=hashlib.sha256(latents.float().cpu().contiguous().numpy().tobytes()).hexdigest(),
        seconds=round(seconds, 3),
    )


def _distinct(name: str, taken: Sequence[str]) -> str:
    """The name, numbered where two VAEs of one name would look alike."""
    distinct, number = name, 2
    while distinct in taken:
        distinct, number = f"{name} ({number})", number + 1
    return distinct


def _file_name(text: str) -> str:
    """Text as part of a file name: no separators, nothing hidden, not too long."""
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in text).lstrip(".")
    return kept.encode()[:80].decode(errors="ignore") or "_"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
