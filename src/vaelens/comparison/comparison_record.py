"""The record of a comparison, `run.json`: its settings, the model, each VAE, each latent and each decode."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vaelens.comparison.compared_images import ComparedImage
from vaelens.comparison.selection import VAESource
from vaelens.generation import LatentGenerator
from vaelens.report.record import public_name, run_record, vae_record
from vaelens.vae import VAE


def comparison_record(
    command: str,
    settings: Mapping[str, Any],
    vaes: Sequence[Mapping[str, Any]],
    *,
    generator: LatentGenerator | None,
    images: Sequence[ComparedImage],
    seconds: float,
) -> dict[str, Any]:
    """`settings` as they were given; sampling and model as they were used, None where nothing was generated."""
    return run_record(command, settings, vaes, seconds) | {
        "sampling": generator and asdict(generator.sampling),
        "model": generator and generator.facts.model_dump(),
        "images": [_image_record(image) for image in images],
        "rows": [row for image in images for row in _rows(image, [vae["name"] for vae in vaes])],
    }


def vae_records(sources: Sequence[VAESource], vaes: Sequence[VAE], own_names: Sequence[str]) -> list[dict[str, Any]]:
    """Each VAE with its source as it was named, and its own name: `vaes` may be numbered to tell two apart."""
    return [
        vae_record(vae)
        | {"source": source.name if isinstance(source, VAE) else public_name(source), "own_name": own_name}
        for source, vae, own_name in zip(sources, vaes, own_names, strict=True)
    ]


def _image_record(image: ComparedImage) -> dict[str, Any]:
    provenance = image.latent.provenance
    return {
        "title": image.title,
        "note": image.note,
        "provenance": provenance and provenance.model_dump(mode="json"),
        "latent_space": image.latent.space,
        "latents_shape": list(image.latent.tensor.shape),
        "latents_sha256": image.latent.sha256,
    }


def _rows(image: ComparedImage, vaes: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i, one in enumerate(image.decoded):
        row = {
            "image": image.title,
            "vae": vaes[i],
            "latents_sha256": image.latent.sha256,
            "seconds": round(one.seconds, 4),
            "memory_bytes": one.memory,
            "dtype": one.dtype,
            "retried_in_float32": one.retried_in_float32,
            "flagged": one.flagged,
        }
        rows.append(row | (asdict(image.scores[i]) if image.scores else {}))
    return rows
