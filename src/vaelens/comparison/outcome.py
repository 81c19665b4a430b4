"""What a comparison leaves: images with all that made them, as page, sheet, folder, or plain PNGs."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vaelens.comparison.image_text import image_text
from vaelens.comparison.subjects import Scores, Subject
from vaelens.decoding import Decoded
from vaelens.errors import UsageError, VaelensError
from vaelens.files import json_text, writable_path, write_together
from vaelens.images.reading import SUFFIXES
from vaelens.images.writing import encode_png
from vaelens.latents import CHUNK, latents_bytes
from vaelens.report import gallery
from vaelens.report.gallery import Cell, Gallery, file_name
from vaelens.report.tables import Column, Table

SHEET_NAME = "sheet.png"


@dataclass(frozen=True)
class Comparison:
    """Latents through decoders, each subject by every VAE in order.

    `interrupted` where some were left out, by somebody's wish or by `failure`: what stopped the work after something
    was finished.
    """

    subjects: tuple[Subject, ...]
    record: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    failure: VaelensError | None = None

    def __repr__(self) -> str:
        size = " and ".join(f"{len(parts)} {what}" for parts, what in ((self.subjects, "latents"), (self.vaes, "VAEs")))
        return f"Comparison({size}: {', '.join(self.vaes)})"

    @property
    def vaes(self) -> list[str]:
        """The VAEs' names, in order."""
        return [vae["name"] for vae in self.record["vaes"]]

    def table(self) -> Table:
        """A row an image: PSNR and SSIM where there is an original, what decoding took, how far it is from the first.

        The distance is the mean and the largest |difference| of 8-bit values.
        """
        scored = any(subject.scores for subject in self.subjects)
        names = ["image", "VAE", *["PSNR", "SSIM"] * scored, "seconds", "+MB"]
        several = len(self.vaes) > 1
        better = {"PSNR": "higher", "SSIM": "higher"}
        columns = [Column(name, better.get(name)) for name in names]  # pyright: ignore[reportArgumentType]
        columns += [Column(f"mean |d| to {self.vaes[0]}"), Column("largest")] * several
        rows: list[tuple[str, ...]] = []
        for subject in self.subjects:
            for i, (name, one) in enumerate(zip(self.vaes, subject.decoded, strict=False)):
                scores = subject.scores[i] if subject.scores else None
                measured = [f"{scores.psnr:.2f}", f"{scores.ssim:.4f}"] if scores else ["-", "-"]
                memory = "-" if one.memory is None else f"{one.memory / 1e6:.0f}"
                row = [subject.title, name, *measured * scored, f"{one.seconds:.2f}", memory]
                gap = np.abs(one.pixels.astype(np.int16) - subject.decoded[0].pixels)
                rows.append((*row, *([f"{gap.mean():.2f}", f"{gap.max()}"] if i else ["-", "-"]) * several))
        return Table(tuple(columns), tuple(rows))

    def said(self) -> list[str]:
        """What happened on the way that one should know, a sentence each."""
        said: list[str] = []
        every = [(s, name, one) for s in self.subjects for name, one in zip(self.vaes, s.decoded, strict=False)]
        for subject, name, one in every:
            if one.redone:
                said.append(f"{subject.title}: {name} overflowed in float16 and was decoded again in float32.")
        hidden = sum(one.hidden for _, _, one in every)
        if hidden:
            said.append(f"The model's safety checker hid {hidden} of {len(every)} images (--no-safety-checker).")
        return said

    def save(self, path: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]] = ()) -> list[Path]:
        """Write a page (.html), a labelled sheet (.png) or a folder with both, each image and each latent alone.

        The record lies beside it. None of `inputs` is written over. Raises as `Gallery.save` does.
        """
        return self.gallery().save(path, inputs)

    def save_plain(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write each image by itself, without labels: `.png` one alone, anything else a folder; the record beside it.

        Raises UsageError for several images in one file, and what writing raises.
        """
        target, record = Path(path), (json_text(self.record) + "\n").encode()
        if target.suffix.lower() == ".png":
            check_plain_output(target, sum(len(subject.decoded) for subject in self.subjects))
            png = encode_png(self.subjects[0].decoded[0].pixels, self.text(self.subjects[0], 0))
            contents = {target: png, target.with_suffix(f".{gallery.RECORD_NAME}"): record}
            write_together(contents)
            return list(contents)
        contents = {target / gallery.RECORD_NAME: record}
        for number, subject in enumerate(self.subjects, 1):
            stem = f"{number:03d}-{file_name(subject.file)}"
            for i, (name, one) in enumerate(zip(self.vaes, subject.decoded, strict=False)):
                contents[target / f"{stem}-{file_name(name)}.png"] = encode_png(one.pixels, self.text(subject, i))
            contents[target / f"{stem}.safetensors"] = latents_bytes(subject.latent)
        earlier = gallery.made_before(target)
        write_together(contents)
        gallery.remove(earlier, contents)
        return list(contents)

    def gallery(self) -> Gallery:
        """The images in rows, a row a subject, and all that is written beside them."""
        rows: list[gallery.Row] = []
        with_original = any(subject.original is not None for subject in self.subjects)
        for subject in self.subjects:
            cells: list[Cell] = []
            if with_original:
                cells.append(_original(subject))
            for i, (name, one) in enumerate(zip(self.vaes, subject.decoded, strict=False)):
                scores = subject.scores[i] if subject.scores else None
                lines = _lines(one, scores)
                cells.append(Cell(name, one.pixels, "\n".join(lines), "\n".join(lines), self.text(subject, i)))
            unfinished = np.zeros_like(subject.decoded[0].pixels)
            lacking = self.vaes[len(subject.decoded) :]
            cells += [Cell(name, unfinished, "Not finished: the work was stopped.", blank=True) for name in lacking]
            rows.append(gallery.Row(subject.title, subject.file, tuple(cells), subject.note, subject.boxes))
        names = [f"{n:03d}-{file_name(s.file)}.safetensors" for n, s in enumerate(self.subjects, 1)]
        return Gallery(
            title="One latent, every decoder",
            sheet_name=SHEET_NAME,
            rows=tuple(rows),
            table=self.table(),
            facts=self._facts(),
            record=self.record,
            text=self._sheet_text(),
            more={name: latents_bytes(s.latent) for name, s in zip(names, self.subjects, strict=True)},
        )

    def text(self, subject: Subject, number: int) -> dict[str, str]:
        """The PNG text of a subject's image by the `number`-th VAE, see `image_text`."""
        return image_text(self.record, subject, number)

    def _sheet_text(self) -> dict[str, str]:
        """A sheet's PNG text: what each of its images says of itself, a list under the usual key."""
        every = [self.text(subject, i) for subject in self.subjects for i in range(len(subject.decoded))]
        parts = [json.loads(text[CHUNK]) for text in every]
        text = {"Software": f"vaelens {self.record['versions']['vaelens']}", "vae": ", ".join(self.vaes)}
        return text | {CHUNK: json_text({"sheet": parts})}

    def _facts(self) -> dict[str, str]:
        versions = self.record["versions"]
        several = len(self.vaes) > 1
        shown = "Each row is one latent, decoded by each VAE: all that differs is the decoder."
        facts = {"shown": shown if several else "Each row is one latent, decoded by one VAE."}
        made = next((s.latent.made for s in self.subjects if "prompt" in s.latent.made), None)
        if made:
            facts["prompt"] = made["prompt"]
            if made.get("negative_prompt"):
                facts["negative prompt"] = made["negative_prompt"]
            facts["model"] = (
                f"{made['model']}, {made['scheduler']}, {made['steps']} steps, guidance {made['guidance']:g}, "
                f"{made['model_dtype']}"
            )
        for vae in self.record["vaes"]:
            space = vae["latent_space"] or "its own"
            facts[vae["name"]] = (
                f"latent space {space}, {vae['dtype']} on {vae['device']}, weights (encoder-decoder) {vae['weights']}"
            )
        facts["latents"] = "; ".join(f"{s.title}: sha256 {s.latent.sha256}" for s in self.subjects)
        facts["time and memory"] = "of each decode; memory at its peak, beyond what was taken before"
        if several:
            facts["mean |d|, largest"] = (
                f"difference from {self.vaes[0]}'s image in 8-bit values: how far apart, not which is better"
            )
        if self.notes or self.said():
            facts["notes"] = " ".join([*self.notes, *self.said()])
        facts["made with"] = (
            f"vaelens {versions['vaelens']}, torch {versions['torch']}, {self.record['threads']} thread"
            + "s" * (self.record["threads"] != 1)
        )
        return facts


def check_plain_output(path: Path, images: int) -> None:
    """Whether `save_plain` may write there, asked before any work. Raises UsageError."""
    if path.suffix.lower() != ".png":
        other = path.suffix.lower() in {*SUFFIXES, *gallery.PAGES}
        if not path.is_dir() and (other or path.exists()):
            raise UsageError(f"-o {path}: generate writes a .png or a folder. For a page: `vaelens compare`.")
        record = writable_path(path / gallery.RECORD_NAME)
        gallery.check_ours(record, [record])
        return
    if images > 1:
        raise UsageError(f"-o {path} is one image, and {images} are asked for. Name a folder.")
    writable_path(path)
    writable_path(path.with_suffix(f".{gallery.RECORD_NAME}"))


def _lines(one: Decoded, scores: Scores | None) -> list[str]:
    lines = [f"{scores.psnr:.2f} dB  SSIM {scores.ssim:.3f}"] if scores else []
    lines.append(f"{one.seconds:.2f} s" + ("" if one.memory is None else f"  +{one.memory / 1e6:.0f} MB memory"))
    if one.redone:
        lines.append("float16 overflowed: redone in float32")
    if one.hidden:
        lines.append("hidden by the safety checker")
    return lines


def _original(subject: Subject) -> Cell:
    if subject.original is not None:
        return Cell("original", subject.original)
    h, w = subject.decoded[0].pixels.shape[:2]
    made = f'No original: made from the prompt "{subject.note}"' if subject.note else "No original: made from latents"
    return Cell("original", np.zeros((h, w, 3), np.uint8), made, blank=True)
