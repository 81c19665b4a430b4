"""What a comparison leaves: images with their metadata, as a page, a sheet, a folder, or plain PNGs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vaelens.comparison.compared_images import ComparedImage, Scores
from vaelens.decoding import Decoded
from vaelens.errors import UsageError, VaelensError
from vaelens.files import StrPath
from vaelens.images.reading import SUFFIXES
from vaelens.images.writing import encode_png
from vaelens.latents import PromptProvenance, latents_bytes
from vaelens.png_metadata import PngMetadata, describe_image, sheet_text
from vaelens.report import gallery
from vaelens.report.gallery import Cell, Gallery, check_blind, file_name
from vaelens.report.panels import Decoder
from vaelens.report.record import vae_facts
from vaelens.report.tables import Column, Table
from vaelens.text.numbers import counted

SHEET_NAME = "sheet.png"


@dataclass(frozen=True)
class Comparison:
    """Latents through decoders: each image by every VAE, in order.

    `interrupted` means that some are missing: the caller stopped the work, or `failure` did after something was
    finished.
    """

    images: tuple[ComparedImage, ...]
    record: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    failure: VaelensError | None = None

    def __repr__(self) -> str:
        latents, vaes = counted(len(self.images), "latent"), counted(len(self.vaes), "VAE")
        return f"Comparison({latents}, {vaes}: {', '.join(self.vaes)})"

    @property
    def vaes(self) -> list[str]:
        """The VAEs' names, in order."""
        return [vae["name"] for vae in self.record["vaes"]]

    @property
    def shows_two_decoders(self) -> bool:
        """Whether an image was decoded by two VAEs, as a blind test needs; an interrupted run may lack it."""
        return any(len(image.decoded) > 1 for image in self.images)

    def table(self) -> Table:
        """One row per decoded image: PSNR and SSIM where there is an original, time, memory, distance to the first VAE.

        The distance is the mean and the largest |difference| of 8-bit values.
        """
        scored = any(image.scores for image in self.images)
        several = len(self.vaes) > 1
        columns = [Column("image"), Column("VAE")]
        columns += [Column("PSNR", "higher"), Column("SSIM", "higher")] * scored
        columns += [Column("seconds"), Column("peak MB")]
        columns += [Column(f"mean difference to {self.vaes[0]} (0-255)"), Column("largest")] * several
        rows: list[tuple[str, ...]] = []
        for image, i, one in self._decoded():
            scores = image.scores[i] if image.scores else None
            measured = [f"{scores.psnr:.2f}", f"{scores.ssim:.4f}"] if scores else ["-", "-"]
            memory = "-" if one.memory is None else f"{one.memory / 1e6:.0f}"
            distance = np.abs(one.pixels.astype(np.int16) - image.decoded[0].pixels)
            distances = [f"{distance.mean():.2f}", f"{distance.max()}"] if i else ["-", "-"]
            cost = [f"{one.seconds:.2f}", memory]
            rows.append((image.title, self.vaes[i], *measured * scored, *cost, *distances * several))
        return Table(tuple(columns), tuple(rows))

    def warnings(self) -> list[str]:
        """What happened to images on the way, a sentence each."""
        warnings = [
            f"{image.title}: {self.vaes[i]} overflowed in float16 and was decoded again in float32."
            for image, i, one in self._decoded()
            if one.retried_in_float32
        ]
        flags = [one.flagged for _, _, one in self._decoded()]
        if any(flags):
            warnings.append(
                f"The model's safety checker replaced {sum(flags)} of {counted(len(flags), 'image')} with black "
                "(--no-safety-checker turns it off)."
            )
        return warnings

    def save(self, path: StrPath, inputs: Sequence[StrPath] = (), *, blind: bool = False) -> list[Path]:
        """Write a page (.html), a labelled sheet (.png) or a folder with both, each image and each latent.

        A `blind` page opens as a blind test of the decoders. The record is written beside it. None of `inputs` is
        overwritten. Raises as `Gallery.save` does, and UsageError for a blind test of fewer than two decoders.
        """
        if not self.shows_two_decoders:
            check_blind([], blind=blind)
        return self.gallery().save(path, inputs, blind=blind)

    def save_plain(self, path: StrPath) -> list[Path]:
        """Write the images without labels: `.png` for a single one, anything else is a folder; the record beside it.

        Raises UsageError for several images in one file, and what writing raises.
        """
        target = Path(path)
        check_plain_output(target, sum(len(image.decoded) for image in self.images), self.record["command"])
        if target.suffix.lower() == ".png":
            png = encode_png(self.images[0].decoded[0].pixels, self.png_metadata(self.images[0], 0).text())
            return gallery.write_single(target, self.record, png)
        numbered: dict[str, bytes] = {}
        for name, image in self._file_names():
            for i, one in enumerate(image.decoded):
                png = encode_png(one.pixels, self.png_metadata(image, i).text())
                numbered[f"{name}-{file_name(self.vaes[i])}.png"] = png
            numbered[f"{name}.safetensors"] = latents_bytes(image.latent)
        return gallery.write_folder(target, self.record, {}, numbered)

    def gallery(self) -> Gallery:
        """The images in rows, one row per latent, and all that is written beside them."""
        rows: list[gallery.Row] = []
        with_original = any(image.original is not None for image in self.images)
        for image in self.images:
            cells = [_original(image)] if with_original else []
            for i, one in enumerate(image.decoded):
                caption = "\n".join(_caption(one, image.scores[i] if image.scores else None))
                text = self.png_metadata(image, i).text()
                vae = Decoder.of(self.record["vaes"][i])
                cells.append(Cell(self.vaes[i], one.pixels, caption, caption, text, False, vae, image.latent.sha256))
            blank = np.zeros_like(image.decoded[0].pixels)
            missing = self.vaes[len(image.decoded) :]
            cells += [Cell(name, blank, "Not decoded: the run was interrupted.", blank=True) for name in missing]
            rows.append(gallery.Row(image.title, image.file, tuple(cells), image.note, image.boxes))
        return Gallery(
            title="One latent, every decoder",
            sheet_name=SHEET_NAME,
            rows=tuple(rows),
            table=self.table(),
            facts=self._facts(),
            record=self.record,
            text=sheet_text([self.png_metadata(image, i) for image, i, _ in self._decoded()], self.vaes),
            more={f"{name}.safetensors": latents_bytes(image.latent) for name, image in self._file_names()},
        )

    def png_metadata(self, image: ComparedImage, i: int) -> PngMetadata:
        """The metadata of an image by the `i`-th VAE, under the VAE's own name."""
        vae = self.record["vaes"][i]
        return describe_image(
            image.latent,
            image.decoded[i],
            vae | {"name": vae["own_name"]},
            versions=self.record["versions"],
            threads=self.record["threads"],
        )

    def _decoded(self) -> Iterator[tuple[ComparedImage, int, Decoded]]:
        """Each decoded image with the index of its VAE."""
        return ((image, i, one) for image in self.images for i, one in enumerate(image.decoded))

    def _file_names(self) -> Iterator[tuple[str, ComparedImage]]:
        """Each image with how the names of its files in a folder begin."""
        return ((f"{number:03d}-{file_name(image.file)}", image) for number, image in enumerate(self.images, 1))

    def _facts(self) -> dict[str, str]:
        versions, threads = self.record["versions"], self.record["threads"]
        several = len(self.vaes) > 1
        shown = "Each row is one latent, decoded by each VAE: only the decoder differs."
        facts = {"shown": shown if several else "Each row is one latent, decoded by one VAE."}
        sources = [image.latent.provenance for image in self.images]
        source = next((one for one in sources if isinstance(one, PromptProvenance)), None)
        if source is not None:
            sampling, model = source.sampling, source.model
            facts["prompt"] = sampling.prompt
            if sampling.negative_prompt:
                facts["negative prompt"] = sampling.negative_prompt
            facts["model"] = (
                f"{model.name}, {model.scheduler}, {counted(sampling.steps or 0, 'step')}, guidance scale "
                f"{sampling.guidance_scale:g}, "
                f"{model.dtype}"
            )
        facts |= vae_facts(self.record["vaes"])
        facts["latents"] = "; ".join(f"{image.title}: sha256 {image.latent.sha256}" for image in self.images)
        facts["time and memory"] = "of each decode; peak memory beyond what was in use before"
        if several:
            facts["mean difference, largest"] = (
                f"difference from {self.vaes[0]}'s image in 8-bit values: how far apart, not which is better"
            )
        if self.notes or self.warnings():
            facts["notes"] = " ".join([*self.notes, *self.warnings()])
        facts["made with"] = f"vaelens {versions['vaelens']}, torch {versions['torch']}, {counted(threads, 'thread')}"
        return facts


def check_plain_output(path: Path, images: int, command: str = "generate") -> None:
    """Raises UsageError where `save_plain` may not write that command's images; called before any work."""
    if path.suffix.lower() != ".png":
        other = path.suffix.lower() in {*SUFFIXES, *gallery.PAGES}
        if not path.is_dir() and (other or path.exists()):
            raise UsageError(f"-o {path}: generate writes a .png or a folder. For a page: `vaelens compare`.")
        gallery.check_folder(path, command, [])
        return
    if images > 1:
        raise UsageError(f"-o {path} is one file, but {images} images are to be written. Name a folder.")
    gallery.check_single(path)


def _caption(one: Decoded, scores: Scores | None) -> list[str]:
    lines = [f"{scores.psnr:.2f} dB  SSIM {scores.ssim:.3f}"] if scores else []
    memory = "" if one.memory is None else f", memory +{one.memory / 1e6:.0f} MB"  # short: it fits under 256 pixels
    lines.append(f"decoded in {one.seconds:.2f} s{memory}")
    lines += ["float16 overflowed: decoded again in float32"] * one.retried_in_float32
    return lines + ["black: flagged by the safety checker"] * one.flagged


def _original(image: ComparedImage) -> Cell:
    if image.original is not None:
        return Cell("original", image.original)
    why = (
        f'No original: generated from the prompt "{image.note}"' if image.note else "No original: decoded from latents"
    )
    return Cell("original", np.zeros_like(image.decoded[0].pixels), why, blank=True)
