"""The model and the VAEs of a comparison, selected from names and small files before any weights are downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from vaelens import generation
from vaelens.adapters.models import ModelFiles, check_model, find_model
from vaelens.errors import UsageError
from vaelens.loading import check_source, space_of
from vaelens.runtime import Notify, Runtime
from vaelens.sampling import Sampling
from vaelens.vae import VAE
from vaelens.weights.registry import registry

VAESource = str | VAE
Spaces = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Selection:
    """A model, None where nothing is generated, and VAEs."""

    model: ModelFiles | None
    vaes: tuple[VAESource, ...]


def select(
    sampling: Sampling | None,
    vaes: Sequence[VAESource] | None,
    model: str | None,
    *,
    runtime: Runtime,
    use_model_vae: bool = False,
    latents_space: str | None = None,
    space: str | None = None,
) -> Selection:
    """The named model and VAEs, and the defaults for what isn't named, whatever happens to be downloaded.

    `sampling` is what is generated, if anything is. Without named VAEs, `use_model_vae` takes the model's own, else
    those compared in its latent space. `latents_space` is the space of latents from a file. Defaults are announced
    before any network request.

    Raises UsageError for an unknown name, VAEs of two latent spaces, and a model of another space than the VAEs'; and
    what looking at small files raises.
    """
    spaces = _spaces(vaes or (), space, runtime)
    vae_space = spaces[0][1] if spaces else None
    found = None
    if sampling is not None:
        source = model or _default_model(vae_space, [name for name, _ in spaces], runtime.notify)
        generation.check_prompts(sampling, check_model(source))
        found = find_model(source, runtime, safety_checker=sampling.safety_checker)
        _check_spaces(f"the model {found.name}", found.space, spaces, found.vae)
    if latents_space is not None:
        _check_spaces("the file of latents", latents_space, spaces)
        if found is not None and found.space != latents_space:
            raise UsageError(
                f"the model {found.name} makes latents of {found.space}, but the file holds latents of {latents_space}."
            )
    if vaes:
        return Selection(found, tuple(vaes))
    if found is not None and (use_model_vae or found.space is None):
        runtime.notify(f"No VAE named. Using {found.name}'s own.")
        return Selection(found, (found.vae,))
    needed = found.space if found is not None else latents_space
    compared = registry().spaces[needed].compared if needed in registry().spaces else ()
    if needed is not None and not compared:
        raise UsageError(f"no VAE is known for the latent space {needed}. Name one with --vae.")
    names = list(compared) or registry().embedded()
    runtime.notify(f"No VAE named. Using those of the latent space {needed or 'tiny'}: {', '.join(names)}.")
    return Selection(found, tuple(names))


def _spaces(vaes: Sequence[VAESource], space: str | None, runtime: Runtime) -> Spaces:
    """Each VAE's name, as it was given, and latent space. Raises UsageError where two spaces differ."""
    found: Spaces = []
    for vae in vaes:
        if isinstance(vae, VAE):
            found.append((vae.name, vae.spec.latent_space))
        else:
            found.append((check_source(vae), space_of(vae, runtime, space=space)))
    (first, first_space), *others = found or [("", None)]
    for name, other in others:
        if other != first_space:
            raise UsageError(
                f"{first} decodes latents of {_described(first_space)}, {name} those of {_described(other)}: no latent "
                "fits both. Name VAEs of one latent space (see `vaelens list`); `vaelens reconstruct` takes any VAEs."
            )
    return found


def _default_model(space: str | None, vaes: Sequence[str], notify: Notify) -> str:
    if not vaes:
        name = registry().embedded_model()
        notify(
            f"No model and no VAE named. Using the small embedded model {name}, which draws faces and letters only "
            "(docs/tiny-sd.md). For any prompt: --model sd-v1-4 (4 GB, downloaded once)."
        )
        return name
    name = registry().spaces[space].model if space in registry().spaces else None
    if name is None:
        raise UsageError(
            f"no model is known for the latent space of {vaes[0]}, {_described(space)}. Name one with --model."
        )
    notify(f"No model named. Using {name}, which makes latents of {space}.")
    return name


def _check_spaces(what: str, space: str | None, vaes: Spaces, own: str | None = None) -> None:
    for name, other in vaes:
        if name == own and other == space:
            continue
        if space != other or space is None:
            raise UsageError(
                f"{what} has the latent space {_described(space)}, but {name} decodes that of {_described(other)}: the "
                "image would be noise or have wrong colours. Name a model and a VAE of one space (see `vaelens list`); "
                "for a file that doesn't name its space, add --space."
            )


def _described(space: str | None) -> str:
    behind = registry().spaces[space].behind if space in registry().spaces else ""
    return f"{space} ({behind})" if behind else space or "its own, unknown to vaelens"
