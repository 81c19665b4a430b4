"""Which tensors of a pickled object are the file's: the one rule for tables inside tables.

Programs save a state dict by itself, or in a table beside epochs, callbacks and optimizers, or several of them. All
tables down to four levels become one, by names joined with dots, as far as they aren't training's (`TRAINING`):

- A key that only says "the weights" adds nothing (`WRAPPERS`): state_dict, model, params.
- One that says that they are averaged becomes `ema.` (`AVERAGED`), so that they are told apart from the others.
- Any other key stays part of the name: `vae.`, `first_stage_model.`, `encoder.`.

What these names mean is for the families to say (`families/discovery.py`). Two different tensors of one name are an
error: which is meant can't be known.
"""

from collections.abc import Iterator

from vaelens.tensors.pickles.budget import Budget
from vaelens.tensors.pickles.refusals import WrongPickleError
from vaelens.tensors.pickles.values import Inert, StoredTensor, Table

DEPTH = 4
WRAPPERS = {"state_dict", "model_state_dict", "model_state", "model", "module", "network", "net", "params", "weights"}
AVERAGED = {"ema", "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "params_ema", "ema_params"}
TRAINING = {
    "optimizer", "optimizers", "optimizer_states", "optimizer_state_dict", "optimizer_state", "optim", "opt",
    "scheduler", "schedulers", "lr_scheduler", "lr_schedulers", "scheduler_state_dict", "callbacks", "loops", "scaler",
    "grad_scaler", "amp", "amp_scaling_state", "native_amp_scaling_state", "rng_state", "rng_states", "random_state",
    "discriminator", "loss", "criterion", "hyper_parameters", "hparams", "args", "opts", "config", "cfg",
}  # fmt: skip


def tensors_of(held: object, budget: Budget) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors of an object by name, and what was left out of it: training's tables, by their keys.

    Raises WrongPickleError where it isn't a table, two tensors have one name, or a name isn't text.
    """
    table = _table(held)
    if table is None:
        raise WrongPickleError(f"it holds {_described(held)}, not a table of tensors")
    found: dict[str, StoredTensor] = {}
    left_out: list[str] = []
    for name, tensor in _walk(table, "", 0, left_out, budget):
        other = found.setdefault(name, tensor)
        if other is not tensor and not _is_same(other, tensor):
            raise WrongPickleError(f"it holds two different tensors called {name[:80]}, in tables of their own")
        if not name.isascii():
            _check_text(name)
    return found, left_out


def _walk(
    table: Table, prefix: str, depth: int, left_out: list[str], budget: Budget
) -> Iterator[tuple[str, StoredTensor]]:
    if any(isinstance(value, StoredTensor) for _, value in table.others):
        raise WrongPickleError("a tensor in it has no name, but a number perhaps")
    for key, value in table.named.items():
        budget.step()
        if isinstance(value, StoredTensor):
            budget.spend(200 + 4 * len(prefix) + 4 * len(key))
            yield prefix + key, value
            continue
        inner = _table(value)
        if key in TRAINING:
            if inner is not None or isinstance(value, (list, tuple)):
                budget.spend(200 + 4 * len(prefix))
                _check_text(prefix)
                left_out.append(prefix + key)
        elif inner is not None and depth < DEPTH:
            part = "" if key in WRAPPERS else "ema." if key in AVERAGED else f"{key}."
            budget.spend(4 * (len(prefix) + len(part)))
            yield from _walk(inner, prefix + part, depth + 1, left_out, budget)


def _table(value: object) -> Table | None:
    """The table that it is, or that a placeholder for some other kind of mapping holds."""
    return value.items if isinstance(value, Inert) else value if isinstance(value, Table) else None


def _is_same(one: StoredTensor, other: StoredTensor) -> bool:
    return one.storage is not None and (one.storage, one.begin, one.dtype, one.shape, one.stride) == (
        other.storage, other.begin, other.dtype, other.shape, other.stride,
    )  # fmt: skip


def _described(held: object) -> str:
    if isinstance(held, Inert):
        return f"an object of {held.name}"
    if isinstance(held, StoredTensor):
        return "one tensor without a name"
    return f"a {type(held).__name__}" if type(held) in {list, tuple, str, bytes, int, float} else "something else"


def _check_text(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise WrongPickleError("a name in it holds half a surrogate pair") from None
