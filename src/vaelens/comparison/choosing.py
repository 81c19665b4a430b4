"""Which model and which VAEs serve, settled from names and small files before any weights are downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from vaelens import generation
from vaelens.adapters.models import ModelFiles, check_model
from vaelens.errors import UsageError
from vaelens.generation import Settings
from vaelens.loading import check_source, space_of
from vaelens.runtime import Notify, Runtime
from vaelens.vae import VAE
from vaelens.weights.registry import registry

Choice = str | VAE
Spaces = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Chosen:
    """What serves: a model (None where nothing is generated), and VAEs."""

    model: ModelFiles | None
    vaes: tuple[Choice, ...]


def choose(
    settings: Settings | None,
    vaes: Sequence[Choice] | None,
    model: str | None,
    *,
    own: bool,
    latents_space: str | None = None,
    space: str | None = None,
    runtime: Runtime,
) -> Chosen:
    """Settle both, as the design says: it never depends on what happens to be downloaded.

    `settings` are those of what is generated, if anything is; `own` takes the model's own VAE where none is named, else
    those that are compared in its latent space. `latents_space` is that of latents which are there already. A notice
    tells at once what serves where nobody named it, before anything is asked of the network.

    Raises UsageError for an unknown name, VAEs of two latent spaces, and a model of another space than the VAEs'; and
    what looking at small files raises.
    """
    spaces = _spaces(vaes or (), space, runtime)
    named = spaces[0][1] if spaces else None
    found = None
    if settings is not None:
        source = model or _model_for(named, [name for name, _ in spaces], runtime.notify)
        generation.check_settings(settings, check_model(source))
        found = generation.find(source, settings, runtime)
        _check_match(f"the model {found.name}", found.space, spaces, found.vae)
    if latents_space is not None:
        _check_match("the file of latents", latents_space, spaces)
        if found is not None and found.space != latents_space:
            raise UsageError(
                f"the model {found.name} makes latents of {found.space}, and the file's are {latents_space}'s."
            )
    if vaes:
        return Chosen(found, tuple(vaes))
    if found is not None and (own or found.space is None):
        runtime.notify(f"{found.name}'s own VAE decodes.")
        return Chosen(found, (found.vae,))
    wanted = found.space if found is not None else latents_space
    known = registry().spaces[wanted].default_vaes if wanted in registry().spaces else ()
    if wanted is not None and not known:
        raise UsageError(f"no VAE is known for the latent space {wanted}. Name one with --vae.")
    served = list(known) or registry().embedded()
    runtime.notify(f"No VAE named, so those of the latent space {wanted or 'tiny'} serve: {', '.join(served)}.")
    return Chosen(found, tuple(served))


def _spaces(vaes: Sequence[Choice], space: str | None, runtime: Runtime) -> Spaces:
    """Each VAE's name, as it was given, and latent space. Raises UsageError for two of them."""
    found: Spaces = []
    for vae in vaes:
        if isinstance(vae, VAE):
            found.append((vae.name, vae.spec.latent_space))
        else:
            found.append((check_source(vae), space_of(vae, runtime, space=space)))
    (first, one), *others = found or [("", None)]
    for name, other in others:
        if other != one:
            raise UsageError(
                f"{first} decodes latents of {_called(one)}, {name} those of {_called(other)}: no latent serves both. "
                "Name VAEs of one latent space (`vaelens list` shows them); `vaelens reconstruct` takes any."
            )
    return found


def _model_for(space: str | None, vaes: Sequence[str], notify: Notify) -> str:
    if not vaes:
        name = registry().embedded_model()
        notify(
            f"No model and no VAE named, so the small model that ships with vaelens serves, {name}: it draws faces and "
            "letters only (docs/tiny-sd.md). For any prompt: --model sd-v1-4 (4 GB, downloaded once)."
        )
        return name
    name = registry().spaces[space].model if space in registry().spaces else None
    if name is None:
        raise UsageError(f"no model is known for the latent space of {vaes[0]} ({_called(space)}). Name one: --model.")
    notify(f"No model named, so {name} serves, which makes latents of {space}.")
    return name


def _check_match(what: str, space: str | None, vaes: Spaces, own: str | None = None) -> None:
    for name, other in vaes:
        if name == own and other == space:
            continue
        if space != other or space is None:
            raise UsageError(
                f"{what} has the latent space {_called(space)}, and {name} decodes that of {_called(other)}: it would "
                "give noise or wrong colours. Name a VAE and a model of one space (`vaelens list`); for a file that "
                "doesn't say its space: --space."
            )


def _called(space: str | None) -> str:
    behind = registry().spaces[space].used_by if space in registry().spaces else ""
    return f"{space} ({behind})" if behind else space or "its own, unknown to vaelens"


def with_names(vaes: Sequence[VAE], names: Sequence[str]) -> list[VAE]:
    """The VAEs under distinct names, as they are shown."""
    return [_named(vae, name) for vae, name in zip(vaes, names, strict=True)]


def _named(vae: VAE, name: str) -> VAE:
    return vae if vae.name == name else VAE(vae.network, vae.spec, name, vae.fingerprint)
