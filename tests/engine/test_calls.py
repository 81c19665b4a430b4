"""VAEs through the engine: the plain network's values, budgets, and which networks run as they are."""

import gc
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from support.vaes import TINY, random_vae
from vaelens.engine import autoencoder, eligibility
from vaelens.engine.calls import PLAIN
from vaelens.engine.eligibility import obstacle
from vaelens.engine.plan import Plan
from vaelens.errors import UsageError
from vaelens.kernels.paths import available_paths, choose_path
from vaelens.vae import VAE

IMAGE = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def plain(vae: VAE) -> Tensor:
    """decode(encode(IMAGE)) by the network itself."""
    z = vae.network.posterior(IMAGE * 2 - 1).mode()
    return (vae.network.decode(z) / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("path", available_paths())
def test_the_engine_gives_the_plain_network_s_pixels(vae: VAE, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_KERNELS", path)
    monkeypatch.setattr(type(vae.network), "decode", lambda *_: pytest.fail("the plain network decodes"))
    again = vae.reconstruct(IMAGE)
    monkeypatch.undo()
    one_product = path.endswith("bf16")
    assert (again - plain(vae)).abs().max() < (0.1 if one_product else 1e-4)
    assert [plan.direction for plan in vae.engine.plans.values()] == ["encode", "decode"]


def test_the_path_is_that_of_the_kernels(vae: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vae.engine.path == choose_path(torch.float32, vae.device) != PLAIN
    assert random_vae(TINY).engine.path == PLAIN
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    assert vae.engine.path == "torch"


@pytest.mark.parametrize("budget", ["2GB", 2 * 10**9, "2000MB"])
def test_a_budget_is_bytes_or_a_text(vae: VAE, budget: Any) -> None:
    vae.reconstruct(IMAGE, max_memory=budget)
    assert [plan.max_memory for plan in vae.engine.plans.values()] == [2 * 10**9] * 2


def test_a_call_reports_how_far_it_is(vae: VAE) -> None:
    heard: list[str] = []
    with vae.engine.reporting(heard.append):
        vae.reconstruct(IMAGE)
    for what in ("encoding", "decoding"):
        shares = [int(text.split()[1]) for text in heard if text.startswith(what)]
        assert shares[0] == 0
        assert shares == sorted(shares)
        assert 50 < shares[-1] <= 100
    count = len(heard)
    vae.reconstruct(IMAGE)
    assert len(heard) == count


def test_what_a_report_raises_ends_the_call(vae: VAE) -> None:
    before = vae.reconstruct(IMAGE)

    def stop(text: str) -> None:
        if text.startswith("decoding") and text != "decoding 0 %":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), vae.engine.reporting(stop):
        vae.reconstruct(IMAGE)
    assert torch.equal(vae.reconstruct(IMAGE), before)


def test_a_vae_s_own_budget_holds_where_a_call_names_none(vae: VAE) -> None:
    held = VAE(vae.network, vae.spec, "held", max_memory=10**9)
    for one in (held, held.named("other"), held.to(torch.bfloat16)):
        one.decode(torch.zeros(1, 4, 2, 2))
        assert [plan.max_memory for plan in one.engine.plans.values()] == [10**9]
    held.decode(torch.zeros(1, 4, 2, 2), max_memory="3GB")
    assert held.engine.plans["decode", (2, 2)].max_memory == 3 * 10**9


@pytest.mark.parametrize("budget", ["much", "2 apples", "", -1, 0, True])
def test_what_is_no_budget(vae: VAE, budget: Any) -> None:
    with pytest.raises(UsageError, match=r"max_memory \(--max-memory\) .* is .*\. Write 2GB"):
        vae.decode(torch.zeros(1, 4, 2, 2), max_memory=budget)


def test_a_vae_that_the_engine_does_not_run_takes_no_budget() -> None:
    tiny = random_vae(TINY)
    message = "random can't be held to max_memory, because the engine runs AutoencoderKL networks, and this one is Tiny"
    with pytest.raises(UsageError, match=message):
        tiny.encode(IMAGE, max_memory="2GB")
    with pytest.raises(UsageError, match=message):
        tiny.decode(torch.zeros(1, 4, 2, 2), max_memory="2GB")


def test_another_network_is_used_once_it_is_set(vae: VAE) -> None:
    z, other = torch.randn(1, 4, 3, 3), random_vae(seed=1)
    vae.decode(z)
    vae.network = other.network
    assert torch.equal(vae.decode(z), other.decode(z))
    assert vae.fingerprint == other.fingerprint
    with pytest.raises(UsageError, match=r"random: the network's config isn't the spec's"):
        vae.network = random_vae(TINY).network
    assert vae.network is other.network


def test_the_record_names_the_plan_that_ran(vae: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure of memory that is a smaller one than the first."""
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    z, run, failed = torch.zeros(1, 4, 24, 24), autoencoder.run, list[Plan]()

    def failing_once(steps: Any, plan: Plan, *rest: Any, **options: Any) -> None:
        if not failed:
            failed.append(plan)
            raise MemoryError
        run(steps, plan, *rest, **options)

    monkeypatch.setattr(autoencoder, "run", failing_once)
    vae.decode(z)
    ran = vae.engine.plans["decode", (24, 24)]
    assert ran.peak_bytes < failed[0].peak_bytes
    assert vae.engine.record()["budgets"] == {"decode 24x24": ran.peak_bytes}


def test_the_copy_that_encode_makes_counts_in_its_budget(vae: VAE) -> None:
    vae.encode(IMAGE)
    (plan,) = vae.engine.plans.values()
    assert plan.counts_input
    with pytest.raises(UsageError, match="needs at least"):
        vae.encode(IMAGE, max_memory=plan.smallest - 1)
    vae.encode(IMAGE, max_memory=plan.smallest)


def circular(network: Any) -> None:
    network.decoder.conv_in.padding_mode = "circular"  # what makes images that tile


def replaced(network: Any) -> None:
    inner = network.decoder.conv_out

    class Adapter(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return inner(x) + 1

    network.decoder.conv_out = Adapter()


def other_forward(network: Any) -> None:
    network.encoder.conv_in.forward = lambda x: x


def dilated(network: Any) -> None:
    """By a convolution of the same class, in the place of one that is gone."""
    width = network.decoder.conv_in.out_channels
    network.decoder.conv_in = nn.Conv2d(4, width, 3, padding=2, dilation=2)


class Louder(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def other_class(network: Any) -> None:
    network.decoder.conv_in.__class__ = Louder


def compiled(network: Any) -> None:
    network.decoder._compiled_call_impl = network.decoder._call_impl  # what `compile` sets; it takes seconds to load


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "hook": (lambda n: n.decoder.register_forward_hook(lambda *_: None), "decoder has hooks"),
    "inner hook": (lambda n: n.encoder.conv_in.register_forward_pre_hook(lambda *_: None), "encoder.conv_in has hooks"),
    "padding": (circular, "decoder.conv_in is a convolution with other padding"),
    "adapter": (replaced, "decoder.conv_out is .*Adapter"),
    "parametrization": (lambda n: parametrizations.weight_norm(n.decoder.conv_in), "decoder.conv_in is .*Parametrized"),
    "forward": (other_forward, "encoder.conv_in has another forward"),
    "another layer": (dilated, "decoder.conv_in is a convolution with other padding, stride or dilation"),
    "another class": (other_class, "decoder.conv_in is .*Louder"),
    "one more module": (lambda n: n.decoder.add_module("adapter", nn.Bilinear(1, 1, 1)), "adapter is .*Bilinear"),
    "one module less": (lambda n: delattr(n.decoder, "conv_norm_out"), "it has no conv_norm_out"),
    "network compiled": (lambda n: setattr(n, "_compiled_call_impl", n._call_impl), "it is compiled"),
    "compiled": (compiled, "decoder is compiled"),
    "dtypes": (lambda n: n.decoder.half(), "in several dtypes"),
    "precision": (lambda n: n.double(), "its weights are float64"),
    "device": (lambda n: n.to("meta"), "it is on the device meta"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_with_something_added_runs_as_it_is(vae: VAE, change: str) -> None:
    apply, why = CHANGES[change]
    with torch.no_grad():
        assert obstacle(vae.network) is None
        apply(vae.network)
        found = obstacle(vae.network)
    assert re.search(why, str(found)), found


def test_a_network_is_examined_again_only_when_its_modules_changed(vae: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    examined, modules = list[nn.Module](), eligibility._modules
    monkeypatch.setattr(eligibility, "_modules", lambda network: (examined.append(network), modules(network))[1])
    for _ in range(3):
        vae.decode(torch.zeros(1, 4, 2, 2))
    assert len(examined) == 1
    vae.network.decoder.conv_in.padding_mode = "zeros".upper().lower()  # equal, and another object
    del vae.network.decoder.training
    vae.network.decoder.note = 1
    assert vae.engine.why_plain is None
    assert vae.engine.why_plain is None
    assert len(examined) == 2


def test_what_was_examined_is_not_kept_alive() -> None:
    vae = random_vae()
    vae.decode(torch.zeros(1, 4, 2, 2))
    layer, network = weakref.ref(vae.network.encoder.conv_in), weakref.ref(vae.network)
    del vae.network.encoder.conv_in
    assert layer() is None
    del vae
    gc.collect()
    assert network() is None


def test_hooks_on_a_layer_see_every_call(vae: VAE) -> None:
    seen = list[str]()
    vae.network.decoder.conv_out.register_forward_hook(lambda *_: seen.append("decoded"))
    assert (vae.reconstruct(IMAGE) - plain(vae)).abs().max() < 2e-5
    assert seen == ["decoded"] * 2
    assert vae.engine.path == PLAIN


def test_gradients_autocast_and_global_hooks_take_the_plain_network(vae: VAE) -> None:
    assert "gradients are on" in str(obstacle(vae.network))
    vae.network.requires_grad_(False)
    assert obstacle(vae.network) is None
    assert "gradients are on" in str(obstacle(vae.network, torch.zeros(1, requires_grad=True)))
    with torch.autocast("cpu"):
        assert obstacle(vae.network) == "autocast is on"
    with nn.modules.module.register_module_forward_hook(lambda *_: None):
        assert obstacle(vae.network) == "there are hooks on all modules"
    assert obstacle(vae.network) is None


def test_a_settled_run_keeps_its_strips_whatever_is_free(vae: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bits depend on them: the first call's memory decides, and later calls plan within as much."""
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    monkeypatch.setattr("vaelens.engine.planner.free_memory", lambda _: 2**25)
    first = vae.settle((256, 256), None)
    assert sorted(first["budgets"]) == ["decode 32x32", "encode 256x256"]
    tight = vae.engine.plan("decode", (32, 32))
    monkeypatch.setattr("vaelens.engine.planner.free_memory", lambda _: 2**34)
    other = vae.named("another process")
    ample = other.engine.plan("decode", (32, 32))
    assert other.settle((256, 256), first) == first
    again = other.engine.plan("decode", (32, 32))
    assert tight is not None
    assert ample is not None
    assert again is not None
    assert [step.rows for step in again.steps] == [step.rows for step in tight.steps]
    assert [step.rows for step in ample.steps] != [step.rows for step in tight.steps]


def test_what_is_settled_yields_to_a_named_budget_and_to_what_this_machine_can_do(
    vae: VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorded plan is no limit: where it can't be had the call runs all the same, and a record says how."""
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    ample = vae.engine.plan("decode", (32, 32))
    assert ample is not None
    vae.engine.pinned = {"decode 32x32": 1000}  # of a machine that could park more, say
    assert vae.engine.plan("decode", (32, 32)) == ample
    found = vae.settle((256, 256), {"path": "torch", "budgets": {"decode 32x32": 1000}})
    assert found["budgets"]["decode 32x32"] == ample.peak_bytes
    held = vae.within(ample.smallest)
    held.engine.pinned = {"decode 32x32": ample.peak_bytes}
    within = held.engine.plan("decode", (32, 32))
    assert within is not None
    assert within.peak_bytes <= ample.smallest


def test_a_settled_run_has_room_for_its_batches(vae: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest plan of one small image has no room for the pixels of four."""
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    monkeypatch.setattr("vaelens.engine.planner.free_memory", lambda _: 2**20)
    vae.settle((64, 64), None, 4)
    vae.encode(IMAGE.new_zeros(4, 3, 64, 64))


def test_native_paths_keep_their_name_alone(vae: VAE) -> None:
    if vae.engine.path == "torch":
        pytest.skip("this machine has no native kernels")
    assert vae.settle((64, 64), None) == {"path": vae.engine.path, "budgets": {}}
    vae.reconstruct(IMAGE)
    assert vae.engine.record() == {"path": vae.engine.path, "max_memory": None, "budgets": {}}
