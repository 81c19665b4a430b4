"""What an image says of itself in its PNG text: for `replay`, for people, and for other tools."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vaelens.comparison.subjects import Subject
from vaelens.files import json_text
from vaelens.latents import CHUNK, KEPT

SAMPLERS = {  # what AUTOMATIC1111's web UI calls diffusers' schedulers
    "DDIMScheduler": "DDIM",
    "PNDMScheduler": "PLMS",
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "HeunDiscreteScheduler": "Heun",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
}
SPACINGS = {  # of the noise levels: its name there by diffusers' option
    "use_karras_sigmas": "Karras",
    "use_exponential_sigmas": "Exponential",
    "use_beta_sigmas": "Beta",
}


def image_text(record: Mapping[str, Any], subject: Subject, number: int) -> dict[str, str]:
    """The PNG text of a subject's image by the `number`-th VAE.

    All that made it as JSON (for `replay`), in words, and as other tools read it (`parameters`).
    """
    vae, one, made = record["vaes"][number], subject.decoded[number], subject.latent.made
    settings = record["settings"]
    chunk = {
        "command": record["command"],
        "made": made,
        "vae": {k: vae[k] for k in KEPT} | {"name": vae["own_name"]},
        "decoded_in": one.dtype,
        "latent_space": subject.latent.space,
        "latents_sha256": subject.latent.sha256,
        "size": list(one.pixels.shape[:2]),
        "safety_checker": settings["safety_checker"],
        "hidden": one.hidden,
        "versions": record["versions"],
        "threads": record["threads"],
    }
    text = {"Software": f"vaelens {record['versions']['vaelens']}", "vae": vae["name"]}
    if "prompt" in made:
        text["parameters"] = parameters(made, vae["name"], one.pixels.shape[:2], record["versions"]["vaelens"])
    return text | {"fingerprint": vae["weights"], CHUNK: json_text(chunk)}


def parameters(made: Mapping[str, Any], vae: str, size: Sequence[int], version: str) -> str:
    """What AUTOMATIC1111's web UI writes into a PNG, which other tools read: prompt, negative prompt, settings."""
    lines = [made["prompt"]] + ([f"Negative prompt: {made['negative_prompt']}"] if made.get("negative_prompt") else [])
    options: dict[str, Any] = made.get("scheduler_options", {})
    sampler = str(SAMPLERS.get(made["scheduler"], made["scheduler"]))
    if str(options.get("algorithm_type", "")).startswith("sde"):
        sampler += " SDE"
    spacing = next((word for option, word in SPACINGS.items() if options.get(option)), None)
    settings: dict[str, Any] = {
        "Steps": made["steps"],
        "Sampler": sampler,
        **({"Schedule type": spacing} if spacing else {}),
        "CFG scale": f"{made['guidance']:g}",
        "Seed": made["seed"],
        "Size": f"{size[1]}x{size[0]}",
        "Model": made["model"],
        "VAE": vae,
        "Version": f"vaelens {version}",
    }
    return "\n".join([*lines, ", ".join(f"{name}: {_quoted(str(value))}" for name, value in settings.items())])


def _quoted(value: str) -> str:
    """A value with a comma or colon is quoted as JSON, so that what reads it finds its end."""
    return json.dumps(value, ensure_ascii=False) if {",", ":", "\n"} & set(value) else value
