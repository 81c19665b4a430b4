"""What the record of a comparison says: of the VAEs, of each latent, of each decode."""

from collections.abc import Sequence
from typing import Any

from vaelens.comparison.choosing import Chosen
from vaelens.comparison.subjects import Subject
from vaelens.report.record import vae_record
from vaelens.vae import VAE


def encoder_notes(vaes: Sequence[VAE], photos: int) -> list[str]:
    """Whether one encoder serves all the decoders, checked by its weights."""
    if not photos or len(vaes) == 1:
        return []
    first = vaes[0].fingerprint.encoder
    others = [vae.name for vae in vaes[1:] if not first.is_same(vae.fingerprint.encoder)]
    if not others:
        which = "Both VAEs" if len(vaes) == 2 else f"All {len(vaes)} VAEs"
        return [f"{which} have the same encoder, so each would make the same latents of a photo."]
    return [
        f"The encoder of {', '.join(others)} is another than {vaes[0].name}'s, which encoded the photos: its own "
        "latents would differ a little. `vaelens reconstruct` lets each VAE encode for itself."
    ]


def vae_records(chosen: Chosen, vaes: Sequence[VAE], names: Sequence[str]) -> list[dict[str, Any]]:
    """Each VAE, with what was asked for, and its own name, which `vaes` may have numbered to tell two apart."""
    sources = [vae.name if isinstance(vae, VAE) else vae for vae in chosen.vaes]
    return [
        vae_record(vae) | {"source": source, "own_name": name}
        for vae, source, name in zip(vaes, sources, names, strict=True)
    ]


def results(subjects: Sequence[Subject], vaes: Sequence[VAE]) -> dict[str, Any]:
    """What a record says of each latent, and of each decode."""
    described = [
        {
            "title": s.title,
            "note": s.note,
            "made": s.latent.made,
            "latent_space": s.latent.space,
            "latents_shape": list(s.latent.tensor.shape),
            "latents_sha256": s.latent.sha256,
        }
        for s in subjects
    ]
    rows: list[dict[str, Any]] = []
    for s in subjects:
        for i, (vae, one) in enumerate(zip(vaes, s.decoded, strict=False)):
            row = {
                "subject": s.title,
                "vae": vae.name,
                "latents_sha256": s.latent.sha256,
                "seconds": round(one.seconds, 4),
                "memory_bytes": one.memory,
                "dtype": one.dtype,
                "redone_in_float32": one.redone,
                "hidden": one.hidden,
            }
            rows.append(row | ({"psnr": s.scores[i].psnr, "ssim": s.scores[i].ssim} if s.scores else {}))
    return {"subjects": described, "rows": rows}
