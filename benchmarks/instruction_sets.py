"""Which instructions a benchmark computes with: this machine's best, or fewer of them, for both sides alike.

A library reads the settings when it starts, so they belong into the environment of a fresh process.
"""

import os
import platform
import sys
from pathlib import Path

import torch

# In the order from best to least. VAELENS_KERNELS chooses the engine's path; "" leaves it to its rule.
SETTINGS = {
    "amx": {},
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "VAELENS_KERNELS": "avx512",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "VAELENS_KERNELS": "avx2",
    },
    "other": {},
}
NAMES = {"amx": "AMX", "avx512": "AVX-512 without AMX", "avx2": "AVX2", "other": "this processor's own instructions"}


def best() -> str:
    """The best of SETTINGS that this machine has."""
    if "amx_bf16" in _flags():
        return "amx"
    if "avx512bw" in _flags():
        return "avx512"
    return "avx2" if "avx2" in _flags() else "other"


def environment(isa: str) -> dict[str, str]:
    """The environment of a process that computes with `isa`; the machine's best needs no settings."""
    names = {name for settings in SETTINGS.values() for name in settings}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept if isa == best() else kept | SETTINGS[isa]


def choices() -> list[str]:
    """What this machine can be measured with: its best instructions, and those below."""
    order = list(SETTINGS)
    return [isa for isa in order[order.index(best()) :] if isa != "other" or best() == "other"]


def restart_with(isa: str) -> None:
    """Run this command again in a process that computes with `isa`, unless it does already."""
    wanted = environment(isa)
    if wanted != dict(os.environ):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)


def cpu() -> str:
    """The processor's name."""
    return _line("model name") or platform.processor() or platform.machine()


def described() -> str:
    """What of the processor matters here, from its flags."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "bf16")
    return " ".join(flag for flag in wanted if flag in _flags()) or torch.backends.cpu.get_cpu_capability()


def _flags() -> set[str]:
    return set((_line("flags") or _line("Features")).split())


def _line(name: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
