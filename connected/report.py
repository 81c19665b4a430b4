"""The report to attach to an issue: `report.md` to read and `report.json` with everything.

It names no folder of the user's, no host and no token.
"""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from connected.plan import Plan, duration
from connected.settings import ROOT, Settings
from connected.steps import PASSED, Outcome, Step, exit_code
from vaelens.download.hub import access
from vaelens.files import json_text, write_together
from vaelens.report.tables import Column, Table, markdown_escaped, table_markdown
from vaelens.resources import processor
from vaelens.runs.versions import versions
from vaelens.text.private_paths import replace_paths

SCHEMA = 1
NOT_RUN = "not run"


def machine(device: str) -> dict[str, Any]:
    """What the numbers were made on and with."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    return {
        "versions": versions(),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory,
        "processor": processor("cpu"),
        "device": device if device == "cpu" else f"{device}: {processor(device)}",
        "hub": access()["endpoint"],
    }


def write_report(
    settings: Settings,
    steps: Sequence[Step],
    outcomes: Mapping[str, Outcome],
    plan: Plan,
    surroundings: Mapping[str, Any],
) -> Path:
    """Write both files; returns the path of the Markdown. Raises what writing raises."""
    ended = [outcomes[step.name] for step in steps if step.name in outcomes]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "exit_code": exit_code(ended),
        "complete": len(ended) == len(steps),
        "settings": {key: value for key, value in asdict(settings).items() if key != "folder"},
        "machine": dict(surroundings),
        "plan": plan.as_dict(),
        "steps": [asdict(outcome) for outcome in ended],
    }
    markdown, values = settings.folder / "report.md", settings.folder / "report.json"
    contents = {
        markdown: scrubbed(_markdown(report, steps, outcomes), settings.folder).encode(),
        values: scrubbed(json_text(report), settings.folder).encode(),
    }
    write_together(contents)
    return markdown


def scrubbed(text: str, folder: Path) -> str:
    """The text without the folders that lie in paths of this machine."""
    return replace_paths(text, {str(folder): ".", str(ROOT): ".", str(Path.home()): "~"})


def _markdown(report: Mapping[str, Any], steps: Sequence[Step], outcomes: Mapping[str, Outcome]) -> str:
    ended = [outcomes[step.name] for step in steps if step.name in outcomes]
    passed = sum(outcome.status == PASSED for outcome in ended)
    parts = [f"# vaelens on a connected machine: {passed} of {len(steps)} steps passed", _machine(report)]
    parts.append(table_markdown(_steps_table(steps, outcomes)))
    for kind, write in SECTIONS.items():
        of_kind = [outcome for outcome in ended if outcome.kind == kind and outcome.details]
        if of_kind:
            parts.append(write(of_kind))
    parts += [_failure(outcome) for outcome in ended if outcome.status != PASSED]
    return "\n\n".join(parts).rstrip() + "\n"


def _machine(report: Mapping[str, Any]) -> str:
    facts, code = report["machine"], report["exit_code"]
    memory = f", {facts['memory_bytes'] / 1e9:.0f} GB of memory" if facts["memory_bytes"] else ""
    packages = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    incomplete = "" if report["complete"] else " Not all steps have run."
    return (
        f"Exit code {code}, {report['finished']}.{incomplete} Commit {facts['commit']}. "
        f"{markdown_escaped(facts['processor'])}, {facts['cores']} cores, {facts['threads']} threads{memory}; "
        f"device {markdown_escaped(facts['device'])}; hub {facts['hub']}. {markdown_escaped(packages)}."
    )


def _steps_table(steps: Sequence[Step], outcomes: Mapping[str, Outcome]) -> Table:
    names = ("step", "outcome", "exit code", "time", "what")
    rows = [
        (step.name, one.status, str(one.code), duration(one.seconds), step.about)
        if (one := outcomes.get(step.name))
        else (step.name, NOT_RUN, "", "", step.about)
        for step in steps
    ]
    return Table(tuple(map(Column, names)), tuple(rows))


def _vaes(outcomes: Sequence[Outcome]) -> str:
    devices = list(dict.fromkeys(d for one in outcomes for d in one.details.get("differences", {})))
    names = ("VAE", "source", "licence", "bytes", "sha256", "weights", "opened in diffusers", *devices)
    rows: list[tuple[str, ...]] = []
    for one in outcomes:
        details = one.details
        files = details["files"]
        rows.append((
            one.name.removeprefix("vae "),
            details["source"] + (f" at {files[0]['commit'][:7]}" if files else ""),
            details["licence"],
            ", ".join(f"{file['bytes']:,}" for file in files),
            ", ".join(file["sha256"] for file in files),
            details.get("weights", ""),
            details.get("diffusers", ""),
            *(_differences(details.get("differences", {}).get(device, {})) for device in devices),
        ))  # fmt: skip
    about = (
        "Size and sha256 are as found, and are those of the registry where it has them. Under each device: relative "
        "differences from diffusers on the same weights and a photo of 256x256 in float32, and what is allowed."
    )
    return f"## VAEs\n\n{about}\n\n{table_markdown(Table(tuple(map(Column, names)), tuple(rows)))}"


def _differences(found: Mapping[str, float]) -> str:
    values = ", ".join(f"{what} {value:.2g}" for what, value in found.items() if what != "tolerance")
    return f"{values}; allowed {found['tolerance']:g}" if found else ""


def _article(outcomes: Sequence[Outcome]) -> str:
    lines = ["## The article's program"]
    for one in outcomes:
        details = one.details
        lines += [f"**{one.name}**: “{details['prompt']}”, seed {details['seed']}, {details['steps']} steps."]
        if "latents_sha256" in details:
            lines.append(f"Latent sha256 `{details['latents_sha256']}`, on {details['device']}.")
        lines += [markdown_escaped(note) for note in details.get("notes", ())]
        apart = {
            **details["difference_between"],
            **{f"{v} from compare's": d for v, d in details.get("difference_from_compare", {}).items()},
        }
        rows = [(what, f"{distance['mean']:.3f}", str(distance["largest"])) for what, distance in apart.items()]
        columns = tuple(map(Column, ("difference, 0 to 255", "mean", "largest")))
        lines.append(table_markdown(Table(columns, tuple(rows))))
    return "\n\n".join(lines)


def _scores(outcomes: Sequence[Outcome]) -> str:
    lines: list[str] = []
    for one in outcomes:
        details = one.details
        lines += [
            f"## {one.name[0].upper()}{one.name[1:]}",
            f"{details['source']}, {details['preset']}, {details['images']:,} images.",
            details["table"],
        ]
        lines += [f"Warning: {markdown_escaped(warning)}" for warning in details["warnings"]]
        agree = sum(figure["agrees"] for figure in details["figures"])
        lines.append(
            f"Beside the published figures, which are of all images: {agree} of {len(details['figures'])} agree digit "
            "for digit."
        )
        columns = tuple(map(Column, ("VAE", "figure", "published", "here", "agrees")))
        rows = [
            (f["vae"], f["figure"], f["published"], f["printed"], "yes" if f["agrees"] else "no")
            for f in details["figures"]
        ]
        lines.append(table_markdown(Table(columns, tuple(rows))))
    return "\n\n".join(lines)


SECTIONS: Mapping[str, Callable[[Sequence[Outcome]], str]] = {"vaes": _vaes, "article": _article, "scores": _scores}


def _failure(outcome: Outcome) -> str:
    lines = [f"## {outcome.name}: {outcome.status}", *map(markdown_escaped, outcome.problems)]
    if outcome.traceback:
        lines.append(f"```\n{outcome.traceback.rstrip()}\n```")
    return "\n\n".join(lines)


def _commit() -> str:
    """Of this checkout, "unknown" where it is none; "+" after it where files were changed."""
    try:
        printed = [
            subprocess.run(
                ["git", *command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return printed[0] + "+" * bool(printed[1])
