"""The benchmarks' results as Markdown tables."""

from collections.abc import Sequence
from typing import Any

Result = dict[str, Any]
OURS, THEIRS, USUAL = "vaelens", "obvious stack", "usual step"


def as_markdown(found: Result) -> str:
    """All parts, in their order."""
    return "\n\n".join(part_as_markdown(name, part) for name, part in found.items()) + "\n"


def part_as_markdown(name: str, part: Result) -> str:
    """One part by its name: the conditions, or a measurement."""
    writers = {"conditions": _conditions, "ranks": _ranks, "frechet": _frechet}
    return writers.get(name, _against)(part)


def _conditions(of: Result) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in of["versions"].items())
    return (
        f"{of['cpu']}, {of['instructions']}, {of['cores']} cores, {of['threads']} threads, load average "
        f"{of['load_at_the_start']} at the start; {of['dtype']}, batch size {of['batch_size']}, seed {of['seed']}, "
        f"medians of {of['rounds']} rounds in turns. {versions}."
    )


def _against(of: Result) -> str:
    rates, parts = of["images_per_second"], of["milliseconds_per_image_and_vae"]
    rows = [("images per second", f"{rates[OURS]:.3g}", f"{rates[THEIRS]:.3g}")]
    rows += [
        (
            f"{part}, ms",
            *(f"{parts[stack][part]:.1f}" if part in parts[stack] else "" for stack in (OURS, THEIRS)),
        )
        for part in dict.fromkeys([*parts[OURS], *parts[THEIRS]])
    ]
    differences = ", ".join(f"{name} {value:.1g}" for name, value in of["largest_differences"].items())
    return (
        f"**{of['images']} images through {' and '.join(of['vaes'])}: {of['times_as_fast']:.2f} times as fast.** "
        f"Largest differences between the two stacks' scores: {differences}.\n\n"
        + _table(("per image and VAE", OURS, THEIRS), rows)
    )


def _ranks(of: Result) -> str:
    rows = [(setup, f"{total:.1f}", f"{of['measuring_seconds'][setup]:.1f}") for setup, total in of["seconds"].items()]
    return (
        f"**1 against 2 ranks**, {of['images']} images through tiny-kl-f8, card-2022. Both give the same rows.\n\n"
        + _table(("", "whole command, s", "measuring, s"), rows)
    )


def _frechet(of: Result) -> str:
    rows = [(name, f"{median:.1f}", len(of["seconds"][name])) for name, median in of["medians"].items()]
    return (
        f"**Frechet distance**, {of['images']} images, {of['dimension']} features: {of['times_as_fast']:.1f} times "
        f"as fast, relative difference {of['relative_difference']:.1g}.\n\n" + _table(("", "s", "rounds"), rows)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def finetune_markdown(of: Result) -> str:
    """The results of `finetune.py`."""
    on = of["conditions"]
    versions = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
    differences = ", ".join(f"{name} {value:.1g}" for name, value in of["largest_differences"].items())
    rows = [
        ("seconds per step", *(f"{of['seconds_per_step'][stack]:.2f}" for stack in (OURS, USUAL))),
        ("images per second", *(f"{of['images_per_second'][stack]:.3g}" for stack in (OURS, USUAL))),
        ("peak memory, GB", *(f"{of['peak_memory_bytes'][stack] / 1e9:.2f}" for stack in (OURS, USUAL))),
    ]
    if of["activation_memory_bytes"][OURS] is not None:
        rows.append(
            ("activations, GB", *(f"{of['activation_memory_bytes'][stack] / 1e9:.2f}" for stack in (OURS, USUAL)))
        )
    return (
        f"{on['cpu']}, {on['instructions']}, {on['threads']} thread{'s' * (on['threads'] > 1)}, load average "
        f"{on['load_at_the_start']} at the start; {on['recipe']}, {on['dtype']}, batch size {on['batch_size']}, "
        f"256x256, seed {on['seed']}, medians of {on['rounds']} rounds of {on['steps']} steps in turns. {versions}.\n\n"
        f"**A decoder-only step: {of['times_as_fast']:.2f} times as fast.** Relative differences between the two: "
        f"{differences}.\n\n" + _table(("", OURS, USUAL), rows) + "\n"
    )
