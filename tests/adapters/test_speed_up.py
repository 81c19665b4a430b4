"""`speed_up`: a model of diffusers gives its values through the engine, and its own code runs where it has to."""

import copy
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import vaelens as vl
from support import pipelines
from support.vaes import NARROW, random_vae
from vaelens.engine import autoencoder
from vaelens.errors import UsageError

PIXELS = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
TOLERANCE = 2e-4  # on [-1,1]: docs/exactness.md


@pytest.fixture
def model() -> Any:
    return vl.as_diffusers(random_vae(NARROW))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of the engine, in order."""
    seen = list[str]()
    for name in ("encode", "decode"):
        own = getattr(autoencoder, name)

        def counted(*args: Any, name: str = name, own: Any = own, **options: Any) -> Tensor:
            seen.append(name)
            return own(*args, **options)

        monkeypatch.setattr(autoencoder, name, counted)
    return seen


@torch.no_grad()
def there_and_back(model: Any) -> Tensor:
    return model.decode(model.encode(PIXELS).latent_dist.mode()).sample


def test_the_same_object_gives_the_same_values(model: Any, calls: list[str]) -> None:
    plain = there_and_back(model)
    assert calls == []
    assert vl.speed_up(model) is model
    assert (there_and_back(model) - plain).abs().max() < TOLERANCE
    assert calls == ["encode", "decode"]
    with torch.no_grad():
        (posterior,) = model.encode(PIXELS, return_dict=False)
        (pixels,) = model.decode(posterior.mode(), return_dict=False, generator=torch.Generator())
        assert (pixels - plain).abs().max() < TOLERANCE
        assert model(PIXELS, sample_posterior=True, generator=torch.Generator()).sample.shape == PIXELS.shape
    assert vl.undo_speed_up(model) is model
    assert torch.equal(there_and_back(model), plain)
    assert len(calls) == 6


def test_nothing_that_is_saved_changes(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "before")
    names, kind, config = list(model.state_dict()), type(model), dict(model.config)
    assert isinstance(model, kind)
    vl.speed_up(model, "2GB").save_pretrained(tmp_path / "after")
    assert (list(model.state_dict()), dict(model.config)) == (names, config)
    assert isinstance(model, kind)
    assert (type(model).__name__, type(model).__module__) == (kind.__name__, kind.__module__)
    assert type(vl.undo_speed_up(model)) is kind
    for file in (tmp_path / "before").iterdir():
        assert file.read_bytes() == (tmp_path / "after" / file.name).read_bytes()


def test_slices_of_a_batch_run_one_by_one(model: Any, calls: list[str]) -> None:
    plain = there_and_back(model)
    vl.speed_up(model).enable_slicing()
    assert (there_and_back(model) - plain).abs().max() < TOLERANCE
    assert calls == ["encode"] * 2 + ["decode"] * 2


def through_a_file(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_a_file,
    "DataParallel": lambda model: model._replicate_for_data_parallel(),  # the weights are set afterwards
    "copy.copy": copy.copy,
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_sped_up_and_runs_its_own_weights(name: str, model: Any, calls: list[str]) -> None:
    plain = there_and_back(model)
    other = COPIES[name](vl.speed_up(model, "1GB"))
    other.decoder = copy.deepcopy(model.decoder)
    with torch.no_grad():
        other.decoder.conv_out.bias.add_(1)
    assert (there_and_back(other) - plain - 1).abs().max() < TOLERANCE
    assert calls == ["encode", "decode"]
    assert vars(other)["_vaelens_max_memory"] == 10**9
    vl.undo_speed_up(other)
    there_and_back(other)
    assert len(calls) == 2


def test_another_precision_is_kept(model: Any, calls: list[str]) -> None:
    plain = there_and_back(model)
    model.to(torch.bfloat16)
    vl.speed_up(model)
    with torch.no_grad():
        decoded = model.decode(model.encode(PIXELS.bfloat16()).latent_dist.mode()).sample
    assert decoded.dtype == torch.bfloat16
    assert 0 < (decoded.float() - plain).abs().max() < 0.2
    assert calls == ["encode", "decode"]


def test_a_budget_holds_until_another_one_is_set(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = list[int | None]()
    own = autoencoder.make_plan

    def planned(*args: Any, max_memory: int | None, **options: Any) -> Any:
        budgets.append(max_memory)
        return own(*args, max_memory=max_memory, **options)

    monkeypatch.setattr(autoencoder, "make_plan", planned)
    there_and_back(vl.speed_up(model, "2GB"))
    there_and_back(vl.speed_up(model))
    assert budgets == [2 * 10**9] * 2 + [None] * 2
    with pytest.raises(UsageError, match=r"needs at least .* MB"):
        there_and_back(vl.speed_up(model, 1000))


def replace_layer(model: Any) -> None:
    inner = model.decoder.conv_out

    class LoraLayer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return inner(x) + 0.5

    model.decoder.conv_out = LoraLayer()


def compile_decoder(model: Any) -> None:
    model.decoder._compiled_call_impl = model.decoder._call_impl  # what `compile` sets; it takes seconds to load


def tile(model: Any) -> None:
    model.enable_tiling()
    model.tile_sample_min_size, model.tile_latent_min_size = 32, 4


def shift_output(module: Any, given: Any, output: Tensor) -> Tensor:
    return output + 0.5


ASIDE: dict[str, Callable[[Any], object]] = {
    "hook": lambda model: model.decoder.conv_out.register_forward_hook(shift_output),
    "adapter": replace_layer,
    "tiling": tile,
    "compile": compile_decoder,
    "padding": lambda model: setattr(model.decoder.conv_in, "padding_mode", "circular"),
}


@pytest.mark.parametrize("name", ASIDE)
def test_the_model_s_own_code_runs_where_something_was_added(model: Any, name: str, calls: list[str]) -> None:
    ASIDE[name](model)
    plain = there_and_back(model)
    assert torch.equal(there_and_back(vl.speed_up(model)), plain)
    assert calls == []


def test_what_is_added_later_counts_as_well(model: Any, calls: list[str]) -> None:
    before = there_and_back(vl.speed_up(model))
    handle = model.decoder.conv_out.register_forward_hook(shift_output)
    assert (there_and_back(model) - before - 0.5).abs().max() < TOLERANCE
    handle.remove()
    assert torch.equal(there_and_back(model), before)
    assert calls == ["encode", "decode"] * 2


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 5, 4, 4), (4, 4, 4)])
def test_the_model_says_what_is_wrong_with_an_input(model: Any, shape: tuple[int, ...], calls: list[str]) -> None:
    wrong = {"decode": torch.zeros(shape), "encode": torch.zeros(1, shape[0] + 3, 16, 16)}
    for name, image in wrong.items():
        with pytest.raises(RuntimeError) as plain:
            getattr(vl.undo_speed_up(model), name)(image)
        with pytest.raises(RuntimeError, match=re.escape(str(plain.value))):
            getattr(vl.speed_up(model), name)(image)
    assert calls == []


def test_gradients_flow_as_before(model: Any, calls: list[str]) -> None:
    vl.speed_up(model).train()
    model(PIXELS).sample.mean().backward()
    assert model.decoder.conv_out.bias.grad is not None
    assert calls == []


def test_an_architecture_that_the_engine_does_not_know_runs_as_it_is(calls: list[str]) -> None:
    other = diffusers.AutoencoderKL(act_fn="gelu", block_out_channels=(8,), norm_num_groups=4).eval()
    plain = there_and_back(other)
    assert torch.equal(there_and_back(vl.speed_up(other)), plain)
    assert calls == []


@pytest.mark.parametrize("other", [diffusers.AutoencoderTiny(), nn.Linear(1, 1), random_vae(), random_vae().network])
def test_a_model_of_another_class_is_refused(other: Any) -> None:
    for call in (vl.speed_up, vl.undo_speed_up):
        with pytest.raises(UsageError, match="takes a model of diffusers' class AutoencoderKL"):
            call(other)


def test_a_pipeline_uses_it(calls: list[str]) -> None:
    parts = pipelines.sd().components
    pipe = diffusers.StableDiffusionPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    vl.speed_up(pipe.vae)
    made = pipe(
        "a", num_inference_steps=1, output_type="pt", height=64, width=64, generator=torch.Generator().manual_seed(0)
    )
    assert calls == ["decode"]
    vl.undo_speed_up(pipe.vae)
    again = pipe(
        "a", num_inference_steps=1, output_type="pt", height=64, width=64, generator=torch.Generator().manual_seed(0)
    )
    assert (made.images - again.images).abs().max() < TOLERANCE
    assert calls == ["decode"]
