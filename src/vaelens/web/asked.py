"""What a browser may ask for, checked before a job is made."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vaelens import generation
from vaelens.comparison.selection import select
from vaelens.errors import UsageError
from vaelens.runtime import Runtime
from vaelens.sampling import Sampling, parse_size
from vaelens.vae import check_seed
from vaelens.web.choices import Choices, Decoder, Model, find

MOST_SEEDS, MOST_VAES, PROMPT_LENGTH = 16, 16, 2000
MAX_SIDE = 1024  # photos are shrunk to it unless another is asked for
Id = Annotated[str, Field(min_length=1, max_length=64)]


class Asked(BaseModel):
    """The body of POST /api/jobs. Either a prompt with a model and seeds, or the id of an upload; and VAEs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    vaes: Annotated[list[Id], Field(min_length=1, max_length=MOST_VAES)]
    prompt: Annotated[str, Field(max_length=PROMPT_LENGTH)] | None = None
    negative: Annotated[str, Field(max_length=PROMPT_LENGTH)] | None = None
    model: Id | None = None
    seeds: Annotated[list[int], Field(min_length=1, max_length=MOST_SEEDS)] = [0]
    steps: int | None = None
    cfg: float | None = None
    size: Annotated[str, Field(max_length=20)] | None = None
    scheduler: Annotated[str, Field(max_length=40)] | None = None
    upload: Id | None = None
    max_side: Annotated[int, Field(ge=8, le=4096)] = MAX_SIDE

    def settings(self, guard: bool) -> Sampling | None:
        """What is asked of the model; None for an upload. Raises UsageError for a size that is none."""
        if self.prompt is None:
            return None
        size = parse_size(self.size) if self.size else None
        return Sampling(self.prompt, self.negative or None, self.steps, self.cfg, size, self.scheduler, guard)


def read(body: bytes) -> Asked:
    """The body as what it asks for. Raises UsageError that names the first field that is wrong."""
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"][:3])
        raise UsageError(f"{where or 'the request'}: {first['msg'].lower()}.") from error


def check(asked: Asked, choices: Choices, *, dtype: str, guard: bool) -> tuple[Model | None, list[Decoder]]:
    """The model and the VAEs that serve. Raises UsageError where they can't, in the library's words."""
    vaes = [find(choices.vaes, wanted, "VAE") for wanted in dict.fromkeys(asked.vaes)]
    if (asked.prompt is None) == (asked.upload is None):
        raise UsageError("say what the image should show, or upload one: one of the two.")
    settings = asked.settings(guard)
    model = None
    if settings is not None:
        if asked.model is None:
            raise UsageError("a prompt needs a model. Choose one.")
        model = find(choices.models, asked.model, "model")
        for seed in asked.seeds:
            check_seed(seed)
        generation.check_prompts(settings, model.source)
    if not _fit(model, vaes):
        sources = [vae.source for vae in vaes]
        opened = model.source if model else None
        select(settings, sources, opened, runtime=Runtime(dtype_name=dtype, offline=True))
        raise UsageError("these VAEs don't decode that model's latents. Tick those of its latent space.")
    return model, vaes


def _fit(model: Model | None, vaes: Sequence[Decoder]) -> bool:
    if model is not None:
        own = [vae.own_of == model.id for vae in vaes]
        return all(mine or (vae.space == model.space is not None) for mine, vae in zip(own, vaes, strict=True))
    return len({vae.space for vae in vaes}) == 1
