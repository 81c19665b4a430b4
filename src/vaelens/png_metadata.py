"""The metadata of a generated, decoded or encoded image in its PNG text: for `replay`, for people, for other tools.

One image has one `PngMetadata`, as JSON under the key `vaelens`. It may come from anywhere: names in it are names,
never paths.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, PositiveInt, ValidationError

from vaelens.decoding import Decoded
from vaelens.errors import BadInputError, UsageError
from vaelens.files import StrPath, json_text
from vaelens.images.reading import read_text
from vaelens.json_reading import parse_json
from vaelens.latents import Latent, PromptProvenance, Provenance
from vaelens.sampling import Size
from vaelens.text.numbers import counted
from vaelens.text.wrong_fields import explain_error

PNG_KEY = "vaelens"
SHEET_KEY = "sheet"  # in the JSON of a sheet: the metadata of each of its images
SAMPLERS = {  # what AUTOMATIC1111's web UI calls diffusers' schedulers
    "DDIMScheduler": "DDIM",
    "PNDMScheduler": "PLMS",
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "HeunDiscreteScheduler": "Heun",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
}
SCHEDULE_TYPES = {  # what it calls the spacing of the noise levels, by diffusers' option
    "use_karras_sigmas": "Karras",
    "use_exponential_sigmas": "Exponential",
    "use_beta_sigmas": "Beta",
}


class EngineFacts(BaseModel):
    """How the VAE was run, as `EngineCalls.record` gives it."""

    path: str
    max_memory: PositiveInt | None
    budgets: dict[str, PositiveInt]


class VAEFacts(BaseModel):
    """The VAE that decoded an image."""

    name: str
    latent_space: str | None
    weights: str
    fingerprint: Any
    dtype: str
    device: str
    engine: EngineFacts | None = None  # of an image that was made before vaelens had one


class PngMetadata(BaseModel):
    """How an image was made; `size` is its height and width."""

    provenance: Provenance | None
    vae: VAEFacts
    decoded_in: str
    latent_space: str | None
    latents_sha256: str
    size: Size
    flagged: bool
    versions: dict[str, str]
    threads: int

    def text(self) -> dict[str, str]:
        """The text chunks: all as JSON, the VAE in words, and `parameters` as other tools read them."""
        chunks = {"Software": f"vaelens {self.versions['vaelens']}", "vae": self.vae.name}
        if isinstance(self.provenance, PromptProvenance):
            chunks["parameters"] = self._parameters(self.provenance)
        return chunks | {"fingerprint": self.vae.weights, PNG_KEY: json_text(self.model_dump(mode="json"))}

    def _parameters(self, source: PromptProvenance) -> str:
        """As AUTOMATIC1111's web UI writes them: prompt, negative prompt, settings."""
        sampling, options = source.sampling, source.model.scheduler_options
        sampler = SAMPLERS.get(source.model.scheduler, source.model.scheduler)
        if str(options.get("algorithm_type", "")).startswith("sde"):
            sampler += " SDE"
        schedule = next((name for option, name in SCHEDULE_TYPES.items() if options.get(option)), None)
        settings: dict[str, Any] = {
            "Steps": sampling.steps,
            "Sampler": sampler,
            **({"Schedule type": schedule} if schedule else {}),
            "CFG scale": f"{sampling.guidance_scale:g}",
            "Seed": source.seed,
            "Size": f"{self.size[1]}x{self.size[0]}",
            "Model": source.model.name,
            "VAE": self.vae.name,
            "Version": f"vaelens {self.versions['vaelens']}",
        }
        lines = [sampling.prompt, f"Negative prompt: {sampling.negative_prompt}"][: 1 + bool(sampling.negative_prompt)]
        return "\n".join([*lines, ", ".join(f"{name}: {_quoted(str(value))}" for name, value in settings.items())])


def describe_image(
    latent: Latent, decoded: Decoded, vae: Mapping[str, Any], *, versions: Mapping[str, str], threads: int
) -> PngMetadata:
    """The metadata of a decoded image; `vae` is `vae_record`'s."""
    h, w = decoded.pixels.shape[:2]
    return PngMetadata(
        provenance=latent.provenance,
        vae=VAEFacts.model_validate(vae),
        decoded_in=decoded.dtype,
        latent_space=latent.space,
        latents_sha256=latent.sha256,
        size=(h, w),
        flagged=decoded.flagged,
        versions=dict(versions),
        threads=threads,
    )


def sheet_text(images: Sequence[PngMetadata], vaes: Sequence[str]) -> dict[str, str]:
    """A sheet's text chunks: the metadata of each of its images, a list under the usual key."""
    parts = [image.model_dump(mode="json") for image in images]
    software = f"vaelens {images[0].versions['vaelens']}"
    return {"Software": software, "vae": ", ".join(vaes), PNG_KEY: json_text({SHEET_KEY: parts})}


def read_png_metadata(path: StrPath) -> PngMetadata:
    """The metadata of one image. Raises BadInputError for an image without any, a sheet, and damaged metadata."""
    text = read_text(path)
    if PNG_KEY not in text:
        hint = " It has another tool's `parameters`: use them with `generate`." if "parameters" in text else ""
        raise BadInputError(
            f"{path} has no vaelens metadata, as `generate` and `compare` write it, so it can't be replayed.{hint}"
        )
    values: Any = None
    try:
        values = parse_json(text[PNG_KEY])
        sheet = cast(dict[str, Any], values).get(SHEET_KEY) if isinstance(values, dict) else None
        if isinstance(sheet, list):
            count = len(cast(list[Any], sheet))
            raise BadInputError(
                f"{path} is a sheet of {counted(count, 'image')}, and replay takes one. `compare -o FOLDER/` writes "
                "each alone."
            )
        return PngMetadata.model_validate_json(text[PNG_KEY], strict=True)
    except ValidationError as error:
        raise _damaged(path, explain_error(error, cast(object, values))) from error
    except (UsageError, ValueError, TypeError, OverflowError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: StrPath, reason: str) -> BadInputError:
    return BadInputError(f"{path}: its metadata can't be replayed: {reason.rstrip('.')}. Use the original image.")


def _quoted(value: str) -> str:
    """A value with a comma or colon is quoted as JSON, so that its end can be found."""
    return json.dumps(value, ensure_ascii=False) if {",", ":", "\n"} & set(value) else value
