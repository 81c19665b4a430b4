"""What memory is free: of the machine, and within the process' limits."""

from pathlib import Path

import pytest
import torch

from vaelens import resources
from vaelens.resources import free_memory, total_memory

CPU = torch.device("cpu")
FREE = 4000 * 1024
resource = pytest.importorskip("resource")  # POSIX only


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MEMINFO", "CGROUPS", "MOUNTS"):
        monkeypatch.setattr(resources, name, tmp_path / name)
    (tmp_path / "MEMINFO").write_text("MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable: 4000 kB\n")
    return tmp_path


def mounted(machine: Path, group: str, root: str = "/", version: int = 2) -> None:
    """The process is in a group of that name, and its tree, from `root` down, is mounted at cgroup/."""
    numbered = f"0::{group}\n" if version == 2 else f"9:cpu:/elsewhere\n4:memory:{group}\n0::/\n"
    (machine / "CGROUPS").write_text(numbered)
    kind = "cgroup2 cgroup2 rw,nsdelegate" if version == 2 else "cgroup cgroup rw,memory"
    lines = ["22 1 8:1 / / rw - ext4 /dev/sda rw", f"35 31 0:32 {root} {machine / 'cgroup'} rw,nosuid - {kind}"]
    (machine / "MOUNTS").write_text("\n".join(lines) + "\n")


def limited(folder: Path, limit: str, used: int = 0, cached: int = 0, version: int = 2) -> None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    prefix = "" if version == 2 else "total_"
    stat = f"anon 5\n{prefix}active_file {cached // 4}\n{prefix}inactive_file {cached - cached // 4}\n"
    (folder / "memory.stat").write_text(stat)


def test_free_is_what_the_machine_can_give(machine: Path) -> None:
    assert free_memory(CPU) == FREE
    mounted(machine, "/")
    limited(machine / "cgroup", "max")
    assert free_memory(CPU) == FREE


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_allows_less_but_for_its_cache_of_files(machine: Path, version: int) -> None:
    mounted(machine, "/", version=version)
    limited(machine / "cgroup", "3000000", 2_500_000, 700_000, version)
    assert free_memory(CPU) == 1_200_000
    assert total_memory() == 3_000_000
    limited(machine / "cgroup", "3000000", 4_500_000, 700_000, version)
    assert free_memory(CPU) == 0
    limited(machine / "cgroup", str(2**63 - 4096), 4_500_000, 0, version)  # how version 1 writes that there is none
    assert free_memory(CPU) == FREE


@pytest.mark.parametrize("version", [1, 2])
def test_the_narrowest_of_nested_groups_holds(machine: Path, version: int) -> None:
    mounted(machine, "/user/job/step", version=version)
    limited(machine / "cgroup/user", "3000000", 500_000, 0, version)
    limited(machine / "cgroup/user/job", "2000000", 1_900_000, 0, version)
    limited(machine / "cgroup/user/job/step", "2500000", 1_000, 0, version)
    limited(machine / "cgroup/user/other", "10", 0, 0, version)
    assert free_memory(CPU) == 100_000
    assert total_memory() == 2_000_000


@pytest.mark.parametrize("group", ["/docker/ab12", "/docker/ab12/inner", "/../elsewhere"])
def test_a_container_s_own_part_of_the_tree(machine: Path, group: str) -> None:
    """Its root is mounted, and the process' group is named from the host's root, or lies outside it."""
    mounted(machine, group, root="/docker/ab12")
    limited(machine / "cgroup", "1000000", 400_000)
    assert free_memory(CPU) == 600_000


def test_a_limited_address_space_is_less(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ulimit -v`, which batch systems set."""
    monkeypatch.setattr(resources, "STATM", machine / "STATM")
    (machine / "STATM").write_text("100 50 10 1 0 40 0\n")
    page = resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (600 * page, 700 * page))
    assert free_memory(CPU) == 500 * page


def test_free_is_unknown_where_the_system_does_not_tell(machine: Path) -> None:
    (machine / "MEMINFO").unlink()
    assert free_memory(CPU) is None
