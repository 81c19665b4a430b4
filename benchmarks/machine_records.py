"""results/machine-*.json: all that was measured on a kind of machine, from several runs; and RESULTS.md from it."""

import json
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from aims import Aim, aims_as_markdown, all_aims
from engine_tables import machine_as_markdown
from instruction_sets import best, cpu, described

Result = dict[str, Any]
FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"
HEAD = """# Results

The last results for each kind of machine, written by the scripts here; [README.md](README.md) says what they measure.
"""


def machine_name() -> str:
    """One kind of machine: the processor, its cores, its best instructions."""
    return f"{cpu()}, {os.cpu_count()} cores, {best()}"


def read() -> Result:
    """This machine's record; empty before the first run."""
    file = _file()
    new: Result = {"machine": machine_name(), "best": best(), "flags": described(), "cases": {}, "parts": {}}
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else new


def write(record: Result) -> None:
    """Keep the record, and renew this machine's section of RESULTS.md."""
    file = _file()
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else HEAD
    RESULTS.write_text(with_section(text, record["machine"], as_markdown(record)), encoding="utf-8")


def keep(isa: str, name: str, part: Result, stored: bool, aims: list[Aim]) -> str:
    """Add a part, which `isa` "any" makes one of all instructions, and keep it where `stored`; the aims' lines."""
    record = read()
    record["parts"].setdefault(isa, {})[name] = part
    if stored:
        write(record)
    return aims_as_markdown(record, aims)


def as_markdown(record: Result) -> str:
    """The section of one machine."""
    return f"## {record['machine']}\n\n{aims_as_markdown(record, all_aims(record))}\n\n{machine_as_markdown(record)}"


def with_section(text: str, name: str, section: str) -> str:
    """`text` with what stands between the markers of `name` replaced, or with a new section at the end."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    block = f"{begin}\n{section}\n{end}"
    if begin not in text:
        return f"{text.rstrip()}\n\n{block}\n"
    before, _, rest = text.partition(begin)
    return f"{before}{block}{rest.partition(end)[2]}"


def versions(names: set[str]) -> dict[str, str]:
    """Of the distributions that are installed; torch's with its build."""
    found = {}
    for name in sorted(names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"torch": torch.__version__}


def _file() -> Path:
    slug = re.sub("[^a-z0-9]+", "-", machine_name().lower()).strip("-")
    return FOLDER / "results" / f"machine-{slug}.json"
