"""The body of POST /api/jobs: a prompt with options of sampling, or an upload; and VAEs. Checked before a job exists.

The options of sampling and the form's fields come from `sampling.options()`: a new option there needs nothing here.
"""

import json
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from vaelens import generation
from vaelens.comparison.selection import select
from vaelens.errors import UsageError
from vaelens.runtime import Runtime
from vaelens.sampling import Sampling, Size, defaults, options
from vaelens.text.wrong_fields import explain_error
from vaelens.vae import check_seed
from vaelens.web.choices import Choices, Decoder, Model, find

MAX_SEEDS, MAX_VAES, MAX_PROMPT_LENGTH = 16, 16, 2000
DEFAULT_MAX_SIDE = 1024  # photos are shrunk to it unless the request says otherwise
SET_BY_SERVER = {"safety_checker"}  # options that whoever starts the server decides, never the page
Id = Annotated[str, Field(min_length=1, max_length=64)]
Text = Annotated[str, Field(max_length=MAX_PROMPT_LENGTH)]
FIELDS: dict[Any, tuple[str, Any]] = {  # type in `Sampling` -> kind of input in the form, type in the JSON body
    int: ("integer", int),
    float: ("number", float),
    bool: ("boolean", bool),
    str: ("text", Text),
    Size: ("size", Annotated[str, Field(max_length=20)]),
}


class JobRequest(BaseModel):
    """Either a prompt with a model, seeds and options of sampling, or the id of an upload; and VAEs.

    The options of sampling are attributes of what `read_request` returns, named as in `Sampling`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    vaes: Annotated[list[Id], Field(min_length=1, max_length=MAX_VAES)]
    prompt: Text | None = None
    model: Id | None = None
    seeds: Annotated[list[int], Field(min_length=1, max_length=MAX_SEEDS)] = [0]
    upload: Id | None = None
    max_side: Annotated[int, Field(ge=8, le=4096)] = DEFAULT_MAX_SIDE

    def sampling(self, safety_checker: bool) -> Sampling | None:
        """The sampling to run; None for an upload. Raises UsageError for a value outside its limits."""
        if self.prompt is None:
            return None
        values: dict[str, Any] = {name: getattr(self, name) for name in _field_types()}
        values = {name: None if value == "" else value for name, value in values.items()}
        for name, option in options().items():
            text = values.get(name)
            if option.parse is not None and text is not None:
                values[name] = option.parse(text)
        return Sampling(self.prompt, safety_checker=safety_checker, **values)


def form_fields() -> list[dict[str, Any]]:
    """The options of sampling for the page's form, in order: name, kind of input, limits, choices, default, help."""
    return [
        {
            "name": name,
            "kind": "choice" if options()[name].choices else kind,
            "minimum": options()[name].minimum,
            "maximum": options()[name].maximum,
            "choices": options()[name].choices,
            "default": defaults()[name],
            "help": options()[name].help,
        }
        for name, (kind, _) in _field_types().items()
    ]


def read_request(body: bytes) -> JobRequest:
    """The request in a JSON body. Raises UsageError that names the first wrong field."""
    try:
        return _Body.model_validate_json(body)
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] == "json_invalid":
            raise UsageError("the request isn't valid JSON.") from error
        raise UsageError(f"{explain_error(error, json.loads(body))}.") from error


def check_values(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request, read from a file, unchanged. Raises pydantic's ValidationError where one is wrong."""
    _Body.model_validate(values)
    return values


def check_request(
    request: JobRequest, choices: Choices, *, runtime: Runtime, safety_checker: bool
) -> tuple[Model | None, list[Decoder]]:
    """The model, if there is a prompt, and the VAEs. Raises the library's UsageError if they can't be used together."""
    vaes = [find(choices.vaes, vae, "VAE") for vae in dict.fromkeys(request.vaes)]
    if (request.prompt is None) == (request.upload is None):
        raise UsageError("describe what the image should show, or upload one: one of the two.")
    sampling = request.sampling(safety_checker)
    model = None
    if sampling is not None:
        if request.model is None:
            raise UsageError("a prompt needs a model. Choose one.")
        model = find(choices.models, request.model, "model")
        for seed in request.seeds:
            check_seed(seed)
        generation.check_prompts(sampling, model.source)
    if not _fit(model, vaes):
        select(sampling, [vae.source for vae in vaes], model.source if model else None, runtime=runtime)
        raise UsageError("these VAEs don't decode that model's latents. Tick VAEs of its latent space.")
    return model, vaes


def _fit(model: Model | None, vaes: Sequence[Decoder]) -> bool:
    """Whether each VAE decodes the model's latents; for an upload, whether all share one latent space."""
    if model is None:
        return len({vae.space for vae in vaes}) == 1
    return all(vae.own_of == model.id or (vae.space == model.space is not None) for vae in vaes)


def _field_types() -> dict[str, tuple[str, Any]]:
    """Kind of input and JSON type of each option that the page may set, in order."""
    hints = get_type_hints(Sampling)

    def plain(hint: Any) -> Any:
        return next(one for one in get_args(hint) if one is not NoneType) if isinstance(hint, UnionType) else hint

    return {name: FIELDS[plain(hints[name])] for name in options() if name not in SET_BY_SERVER}


_fields: dict[str, Any] = {name: (kind | None, defaults()[name]) for name, (_, kind) in _field_types().items()}
_Body = create_model("_Body", __base__=JobRequest, **_fields)
