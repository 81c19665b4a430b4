"""Plans: every choice gives the plain network's values, budgets hold, and one that can't be met is refused at once."""

import copy
import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support.vaes import CONFIGS, NARROW, random_network, relative
from vaelens import engine
from vaelens.engine import autoencoder, choices, execution, planner
from vaelens.engine.architecture import decoder_steps, encoder_steps
from vaelens.engine.plan import Direction, Place, Plan
from vaelens.errors import ResourceError, UsageError
from vaelens.kernels import library, torch_convolution
from vaelens.kernels.paths import available_paths
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from vaelens.resources import peak_memory, using_threads
from vaelens.text.numbers import parse_bytes

TOLERANCE = 1e-4  # docs/exactness.md


def forced(plan: Plan, hidden: Place, place: Place, single: Place, rows: int) -> Plan:
    """The plan with other places: of hidden maps, of residual blocks' outputs, and of single convolutions' outputs."""
    steps, before = [], None
    for step, following in zip(plan.steps, [*plan.steps[1:], plan.steps[-1]], strict=True):
        wanted = step.place
        if wanted != "output":
            wanted = place if step.hidden else "memory" if single == before == "recomputed" else single
            wanted = "memory" if "attentions" in step.name + following.name else wanted
        before = wanted
        steps.append(dataclasses.replace(step, place=wanted, hidden=step.hidden and hidden, rows=rows))
    return dataclasses.replace(plan, steps=tuple(steps))


EVERY = list(itertools.product(choices.PLACES, choices.PLACES[:2], choices.PLACES))


@pytest.mark.parametrize(
    ("name", "rows", "chosen"), [("no attention", 1, EVERY), ("no attention", 5, EVERY), ("sdxl", 3, EVERY[::7])]
)
def test_every_choice_gives_the_values_of_the_plain_network(
    name: str, rows: int, chosen: list[tuple[Place, Place, Place]]
) -> None:
    network, f = random_network(CONFIGS[name]), CONFIGS[name].factor
    z, pixels = torch.randn(1, 4, 5, 3), torch.rand(1, 3, 5 * f, 3 * f)
    image, moments = network.decode(z), network.moments(pixels)
    decoding, encoding = engine.plan_decode(network, (5, 3)), engine.plan_encode(network, (5 * f, 3 * f))
    for places in chosen:
        found = engine.decode(network, z, plan=forced(decoding, *places, rows))
        assert (found - image).abs().max() / 2 < TOLERANCE, places
        assert relative(engine.encode(network, pixels, plan=forced(encoding, *places, rows)), moments) < TOLERANCE, (
            places
        )


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks and reserves small enough for the maps to decide a small network's peak."""
    forget_plans()
    monkeypatch.setitem(torch_convolution.BLOCK_BYTES, "cpu", 2**12)
    monkeypatch.setattr(planner, "SLACK_BYTES", 0)
    monkeypatch.setattr("vaelens.engine.attention.SCORES", 2**8)
    monkeypatch.setattr("vaelens.engine.attention.FEWEST", 1)
    yield
    forget_plans()


def forget_plans() -> None:
    for cached in (planner._ample, planner._within, planner._smallest):
        cached.cache_clear()


@pytest.mark.usefixtures("close")
def test_budgets_from_ample_to_the_smallest() -> None:
    network = random_network(CONFIGS["flux1"])
    size, z = (9, 11), torch.randn(1, 16, 9, 11)
    ample = engine.plan_decode(network, size)
    image, plans = network.decode(z), list[Plan]()
    for share in (1.0, 0.5, 0.2, 0.0):
        budget = int(ample.smallest + share * (ample.peak_bytes - ample.smallest))
        plan = engine.plan_decode(network, size, 1, budget)
        assert ample.smallest <= plan.peak_bytes <= budget
        assert (engine.decode(network, z, max_memory=budget) - image).abs().max() / 2 < TOLERANCE
        plans.append(plan)
    assert [plan.seconds for plan in plans] == sorted(plan.seconds for plan in plans)  # less memory, more time
    places = [{step.place for step in plan.steps} | {step.hidden for step in plan.steps} for plan in plans]
    assert places[0] == {"memory", "output", None}
    assert "parked" in places[-1]


@pytest.mark.parametrize(
    ("direction", "size", "budget", "slower"),
    [
        ("decode", (128, 128), 770, 1.3),
        ("decode", (256, 256), 2000, 2.0),
        ("encode", (256 * 8, 256 * 8), 2000, 2.0),
        ("decode", (375, 500), 6000, 2.0),
        ("encode", (3000, 4000), 6000, 2.0),
    ],
)
def test_full_size_images_fit_into_small_budgets(
    direction: Direction, size: tuple[int, int], budget: int, slower: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the planner's own estimates, of kl-f8 in full width: budgets in MB, and how much slower than ample memory."""
    monkeypatch.setattr(planner, "free_memory", lambda device: 2**40)
    monkeypatch.setattr(planner, "parking_room", lambda device: 2**40)
    with torch.device("meta"):
        network = AutoencoderKL(AutoencoderKLConfig())
    steps = decoder_steps(network) if direction == "decode" else encoder_steps(network)
    arguments = {"dtype": torch.float32, "device": torch.device("cpu")}
    ample = planner.make_plan(direction, steps, size, 1, max_memory=None, **arguments)
    plan = planner.make_plan(direction, steps, size, 1, max_memory=budget * 10**6, **arguments)
    assert plan.peak_bytes <= budget * 10**6 < ample.peak_bytes
    assert plan.seconds <= slower * ample.seconds
    assert "recomputed" in {step.place for step in plan.steps} | {step.hidden for step in plan.steps}


def test_strips_are_used_also_in_ample_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one strip has read becomes what the next one writes."""
    network = random_network(NARROW)
    with using_threads(2):
        plan = engine.plan_decode(network, (100, 20))
        assert {min(128, step.height) for step in plan.steps} == {step.rows for step in plan.steps}
        assert {step.height for step in plan.steps} == {100, 200, 400, 800}
        monkeypatch.setattr(planner, "strip_heights", lambda machine: [choices.WHOLE])
        planner._ample.cache_clear()
        try:
            whole = engine.plan_decode(network, (100, 20))
        finally:
            planner._ample.cache_clear()
    peak = lambda plan: max(step.peak_bytes for step in plan.steps if step.height == 800)  # noqa: E731
    assert peak(plan) < 0.8 * peak(whole)


def test_an_odd_size_of_a_photograph_in_ample_and_in_little_memory() -> None:
    """520x776 pixels, as deep as kl-f8."""
    network, z, pixels = random_network(NARROW), torch.randn(1, 4, 65, 97), torch.rand(1, 3, 520, 776)
    image, moments = network.decode(z), network.moments(pixels)
    for plan, run, given in (
        (engine.plan_decode, engine.decode, z),
        (engine.plan_encode, engine.encode, pixels),
    ):
        size = given.shape[2], given.shape[3]
        least = plan(network, size).smallest
        assert least < plan(network, size).peak_bytes
        for budget in (None, least):
            found = run(network, given, max_memory=budget)
            if run is engine.decode:
                assert (found - image).abs().max() / 2 < TOLERANCE
            else:
                assert relative(found, moments) < TOLERANCE


@pytest.mark.usefixtures("close")
def test_without_a_disk_nothing_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    network, size = random_network(CONFIGS["sd1"]), (8, 8)
    with_disk = engine.plan_decode(network, size, 1).smallest
    monkeypatch.setattr(planner, "parking_room", lambda device: 0)
    plan = engine.plan_decode(network, size, 1)
    assert plan.smallest > with_disk
    plan = engine.plan_decode(network, size, 1, plan.smallest)
    assert "parked" not in {step.place for step in plan.steps} | {step.hidden for step in plan.steps}
    z = torch.randn(1, 4, 8, 8)
    assert (engine.decode(network, z, plan=plan) - network.decode(z)).abs().max() / 2 < TOLERANCE


def test_a_budget_that_is_too_small_is_refused_with_the_smallest() -> None:
    network = random_network(CONFIGS["sd1"])
    with pytest.raises(
        UsageError,
        match=r"^decoding 88x64 pixels needs at least (\d+ MB) of memory, and .* is 1.5 MB. Allow \1 or more",
    ) as e:
        engine.decode(network, torch.zeros(1, 4, 8, 11), max_memory=1_500_000)
    least = parse_bytes(str(e.value).split("Allow ")[1].split(" or")[0])
    assert engine.plan_decode(network, (8, 11), 1, least).peak_bytes <= least
    with pytest.raises(UsageError, match=r"^encoding 8x16 pixels needs"):
        engine.encode(network, torch.zeros(1, 3, 16, 8), max_memory=1)
    with pytest.raises(UsageError, match=r"^encoding 2 images of 8x16 pixels needs"):
        engine.encode(network, torch.zeros(2, 3, 16, 8), max_memory=1)


def test_what_is_shown_is_enough() -> None:
    for size in (1, 999_000_000, 999_000_001, 1_000_000_001, 1_894_999_999, 12_340_000_000):
        assert size <= parse_bytes(planner.shown_bytes(size)) <= size * 1.011 + 10**6
    assert planner.shown_bytes(1_894_999_999) == "1.9 GB"


@pytest.mark.parametrize(("name", "counts_input"), [("sdxl", True), ("no attention", False)])
def test_exactly_the_smallest_budget_can_be_met(name: str, counts_input: bool) -> None:
    network, f = random_network(CONFIGS[name]), CONFIGS[name].factor
    for (h, w), batch in [((1, 1), 1), ((9, 4), 3), ((130, 3), 1)]:
        for plan, size in ((engine.plan_decode, (h, w)), (engine.plan_encode, (h * f, w * f))):
            least = plan(network, size, batch, counts_input=counts_input).smallest
            found = plan(network, size, batch, least, counts_input=counts_input)
            assert (found.peak_bytes, found.smallest) == (least, least)
            with pytest.raises(UsageError, match="needs at least"):
                plan(network, size, batch, least - 1, counts_input=counts_input)


def test_the_input_counts_where_it_is_a_copy_made_for_the_call() -> None:
    network = random_network(CONFIGS["sd1"])
    for plan, size, channels in ((engine.plan_encode, (512, 264), 3), (engine.plan_decode, (64, 33), 4)):
        own, copied = plan(network, size, 2), plan(network, size, 2, counts_input=True)
        assert copied.peak_bytes - own.peak_bytes == copied.smallest - own.smallest
        assert copied.peak_bytes - own.peak_bytes == 2 * channels * size[0] * size[1] * 4
    half = copy.deepcopy(network).half()
    own, copied = engine.plan_encode(half, (64, 64)), engine.plan_encode(half, (64, 64), counts_input=True)
    assert copied.peak_bytes - own.peak_bytes == 3 * 64 * 64 * 2


def test_scratch_that_threads_keep_counts_once_for_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Native kernels' threads keep the largest; PyTorch's operations free theirs, so it counts where it is taken."""
    if "portable" not in available_paths():
        pytest.skip("this machine has no native kernels")
    monkeypatch.setenv("VAELENS_KERNELS", "portable")
    network = random_network(CONFIGS["sd1"])
    with using_threads(1):
        alone = engine.plan_decode(network, (8, 8))
    with using_threads(9):
        several = engine.plan_decode(network, (8, 8))
    largest = max(
        layer.kernel(torch.float32, torch.device("cpu")).scratch_bytes(64)
        for step in decoder_steps(network)
        for layer in step.layers
    )
    assert several.peak_bytes - alone.peak_bytes == several.smallest - alone.smallest >= 8 * largest > 0


def test_the_budget_is_what_is_free_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(CONFIGS["sd1"])
    ample = engine.plan_decode(network, (64, 64))
    free = ample.peak_bytes
    monkeypatch.setattr(planner, "free_memory", lambda device: free)
    assert engine.plan_decode(network, (64, 64)).peak_bytes <= free * (1 - planner.RESERVE)
    monkeypatch.setattr(planner, "free_memory", lambda device: 0)  # it is tried all the same
    assert engine.plan_decode(network, (64, 64)).peak_bytes == ample.smallest
    monkeypatch.setattr(planner, "free_memory", lambda device: None)
    assert engine.plan_decode(network, (64, 64)) == ample


def test_a_plan_is_a_table() -> None:
    plan = engine.plan_decode(random_network(CONFIGS["sd1"]), (4, 4), 2, 200 * 10**6)
    table = plan.table()
    assert all(step.name in table for step in plan.steps)
    assert f"Peak {plan.peak_bytes / 1e6:.0f} MB of 200 MB; smallest possible {plan.smallest / 1e6:.0f} MB" in table


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_where_memory_runs_out_a_smaller_plan_goes_on_and_says_so(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second image's third step fails once."""
    network, z = random_network(CONFIGS["sd1"]), torch.randn(2, 4, 24, 24)
    first = engine.plan_decode(network, (24, 24), 2)
    run, calls, notices = execution._Execution.step, [], []

    def failing(self: object, step: object, plan: object, moments: bool) -> None:
        calls.append(step)
        if len(calls) == len(first.steps) + 3:
            raise error
        run(self, step, plan, moments)

    monkeypatch.setattr(execution._Execution, "step", failing)
    found = engine.decode(network, z, notify=notices.append)
    assert (found - network.decode(z)).abs().max() / 2 < TOLERANCE
    assert len(calls) == 2 * len(first.steps) + 3  # the first image isn't made again
    (notice,) = notices
    assert notice.startswith("Memory ran out while decoding 192x192 pixels. It begins again with a plan that takes ")
    assert int(notice.split("takes ")[1].split(" MB")[0]) < first.peak_bytes / 1e6


def test_where_no_smaller_plan_is_left_memory_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **_options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(autoencoder, "run", failing)
    notices = []
    with pytest.raises(
        ResourceError, match=r"decoding 192x192 pixels ran out of memory with the smallest plan, of \d+ MB\. Close"
    ):
        engine.decode(random_network(CONFIGS["sd1"]), torch.zeros(1, 4, 24, 24), notify=notices.append)
    assert notices


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **_options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(autoencoder, "run", failing)
    with pytest.raises(RuntimeError, match="a bug"):
        engine.decode(random_network(CONFIGS["sd1"]), torch.zeros(1, 4, 4, 4))


PEAK = """
import sys, torch
from support.vaes import random_network
from vaelens import engine
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.resources import measured

torch.set_num_threads(1)
network = random_network(AutoencoderKLConfig(block_out_channels=(%(widths)s), norm_num_groups=8, layers_per_block=1))
engine.decode(network, torch.randn(1, 4, 2, 2))  # what is loaded at the first use
ample = engine.plan_decode(network, (%(size)s))
budget = int(ample.smallest + %(share)s * (ample.peak_bytes - ample.smallest))
plan = engine.plan_decode(network, (%(size)s), 1, budget)
with measured(torch.device("cpu")) as usage:
    engine.decode(network, torch.randn(1, 4, %(size)s), plan=plan)
print(plan.peak_bytes, usage.memory, ample.peak_bytes)
"""


def peaks(widths: str, size: str, share: str) -> list[int]:
    """Of a fresh process: the planned and the measured peak, and that of the plan in ample memory."""
    paths = [str(Path(__file__).parents[1]), *sys.path]
    script = f"import sys; sys.path[:0] = {paths!r}{PEAK % {'widths': widths, 'size': size, 'share': share}}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(peak_memory() is None, reason="this system doesn't report the peak of a process")
def test_the_estimated_peak_is_that_of_a_fresh_process() -> None:
    planned, measured, ample = peaks("16, 32, 64, 64", "96, 104", "0.3")
    assert measured <= planned < ample
    assert measured > 0.4 * planned


@pytest.mark.skipif(peak_memory() is None, reason="this system doesn't report the peak of a process")
@pytest.mark.skipif(library.unavailable() is not None, reason="PyTorch's kernels need more of the heap")
def test_strips_leave_no_holes_in_the_heap() -> None:
    """Not even what the plan leaves to the allocator is needed. Copies made and freed in each strip took 30 MB here."""
    planned, measured, _ = peaks("64, 64, 64", "96, 112", "0.02")
    assert measured <= planned - planner.SLACK_BYTES
