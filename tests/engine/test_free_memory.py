"""What memory is free: of the machine and of its container."""

from pathlib import Path

import pytest
import torch

from vaelens import resources
from vaelens.resources import free_memory

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MEMINFO", "CGROUP_LIMIT", "CGROUP_USE", "CGROUP_STAT"):
        monkeypatch.setattr(resources, name, tmp_path / name)
    (tmp_path / "MEMINFO").write_text("MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable: 4000 kB\n")
    return tmp_path


def test_free_is_what_the_machine_can_give(machine: Path) -> None:
    assert free_memory(CPU) == 4000 * 1024
    (machine / "CGROUP_LIMIT").write_text("max\n")
    assert free_memory(CPU) == 4000 * 1024


def test_a_container_allows_less_but_for_its_cache_of_files(machine: Path) -> None:
    (machine / "CGROUP_LIMIT").write_text("3000000\n")
    (machine / "CGROUP_USE").write_text("2500000\n")
    (machine / "CGROUP_STAT").write_text("anon 1700000\nactive_file 300000\ninactive_file 400000\n")
    assert free_memory(CPU) == 1_200_000
    (machine / "CGROUP_USE").write_text("4500000\n")
    assert free_memory(CPU) == 0


def test_free_is_unknown_where_the_system_does_not_tell(machine: Path) -> None:
    (machine / "MEMINFO").unlink()
    assert free_memory(CPU) is None
