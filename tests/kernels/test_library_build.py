"""How setup.py compiles the native library, told by a compiler that only writes down what it is asked for."""

import importlib.util
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no library is built on Windows")

ROOT = Path(__file__).parents[2]
COMPILER = """#!/bin/sh
# Writes each call into $CALLS, fails where its arguments match $REFUSES, and creates what -o names.
echo "$*" >>"$CALLS"
for word in "$@"; do
  case $word in
    -dM) echo "#define __GNUC__ 12"; echo "#define __${ARCHITECTURE:-x86_64}__ 1"; exit 0 ;;
    $REFUSES) echo "In file included from here:" >&2; echo "fatal error: not today" >&2; exit 1 ;;
  esac
done
while [ "$1" != -o ]; do shift; done
echo made >"$2"
"""
AVX512 = {"-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"}
MACHINE_FLAGS = {
    "split_amx": AVX512 | {"-mamx-tile", "-mamx-bf16", "-mavx512bf16"},
    "fp32_avx512": AVX512,
    "fp32_avx2": {"-mavx2", "-mfma"},
}


class Checkout:
    """A copy of what setup.py reads, and the calls of the compiler so far."""

    def __init__(self, folder: Path, setup: ModuleType) -> None:
        self.native = folder / "src" / "vaelens" / "kernels" / "native"
        self.library = folder / "built" / "_native.so"
        self.calls_file = folder / "calls"
        self.setup = setup

    def build(self) -> str | None:
        return self.setup.build_library(self.library)

    def calls(self) -> list[list[str]]:
        """The calls since the last time, but those that ask what the compiler is or knows."""
        lines = self.calls_file.read_text("utf-8").splitlines()
        self.calls_file.write_text("")
        return [
            words for words in map(shlex.split, lines) if "-dM" not in words and "build/native/amx.cpp" not in words
        ]

    def compiled(self) -> set[str]:
        return {Path(words[words.index("-c") + 1]).stem for words in self.calls() if "-c" in words}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    shutil.copytree(ROOT / "src" / "vaelens" / "kernels" / "native", tmp_path / "src/vaelens/kernels/native")
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER, "utf-8")
    compiler.chmod(0o755)
    for name in ("CC", "CPPFLAGS", "CXXFLAGS", "LDFLAGS", "ARCHFLAGS", "VAELENS_NATIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("REFUSES", "nothing")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())  # setuptools adds what it brings with it
    spec = importlib.util.spec_from_file_location("vaelens_setup", ROOT / "setup.py")
    assert spec
    assert spec.loader
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    return Checkout(tmp_path, setup)


def test_each_source_is_compiled_with_its_own_instruction_set(checkout: Checkout) -> None:
    assert checkout.build() is None
    calls = checkout.calls()
    seen = {}
    for words in calls[:-1]:
        source = Path(words[words.index("-c") + 1])
        seen[source.stem] = {word for word in words if word.startswith("-m")}
        assert {"-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden"} <= set(words)
        assert not [word for word in words if "fast-math" in word or word.startswith(("-march", "-ffp-contract"))]
    assert seen == {path.stem: MACHINE_FLAGS.get(path.stem, set()) for path in checkout.native.glob("*.cpp")}
    assert "-shared" in calls[-1]
    assert {Path(word).stem for word in calls[-1] if word.endswith(".o")} == set(seen)
    assert checkout.library.is_file()


def test_other_processors_get_the_portable_sources(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHITECTURE", "aarch64")
    assert checkout.build() is None
    calls = checkout.calls()
    assert not [word for words in calls for word in words if word.startswith("-m")]
    assert {Path(words[words.index("-c") + 1]).stem for words in calls[:-1]} == {
        path.stem for path in checkout.native.glob("*.cpp") if path.stem not in MACHINE_FLAGS
    }


def test_a_compiler_without_amx_leaves_only_that_out(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSES", "-mamx*")
    assert checkout.build() == f"the compiler {checkout.setup.os.environ['CXX']} doesn't know the AMX instructions"
    calls = checkout.calls()
    compiled = {Path(words[words.index("-c") + 1]).stem: words for words in calls[:-1]}
    assert set(compiled) == {path.stem for path in checkout.native.glob("*.cpp")} - {"split_amx"}
    assert "-DVAELENS_WITHOUT_AMX" in compiled["dispatch"]
    assert "split_amx.o" not in " ".join(calls[-1])


def test_what_changed_is_compiled_again_and_nothing_else(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout.build()
    assert checkout.compiled() == {path.stem for path in checkout.native.glob("*.cpp")}
    checkout.build()
    assert checkout.compiled() == set()
    header = checkout.native / "parallel.h"
    header.write_text(header.read_text("utf-8") + "// changed\n", "utf-8")
    checkout.build()
    changed = checkout.compiled()
    assert "parallel" in changed
    assert "dispatch" not in changed
    monkeypatch.setenv("CXXFLAGS", "-g")
    checkout.build()
    assert checkout.compiled() == {path.stem for path in checkout.native.glob("*.cpp")}


def test_code_for_an_instruction_set_stays_in_its_own_functions() -> None:
    """A weak symbol in such an object could be the copy that the linker keeps for all, and crash older processors."""
    objects = [path for name in MACHINE_FLAGS if (path := ROOT / "build" / "native" / f"{name}.o").is_file()]
    nm = shutil.which("nm")
    if not objects or nm is None:
        pytest.skip("no objects of a build, or no nm")
    for path in objects:
        symbols = subprocess.run([nm, "--defined-only", path], capture_output=True, text=True, check=True).stdout
        shared = [line for line in symbols.splitlines() if line.split()[-2] in "uvVwW"]
        assert not shared, (path.name, shared)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"REFUSES": "*parallel.cpp"}, "compiler failed building parallel.o: fatal error: not today"),
        ({"REFUSES": "-shared"}, "compiler failed building _native.so: fatal error: not today"),
        ({"CXX": "", "CC": "/bin/false"}, "the compiler /bin/false failed: it ended with status 1"),
        ({"CXX": "/bin/true"}, "/bin/true is neither GCC nor Clang"),
        ({"CXX": "no-such-compiler"}, "the compiler no-such-compiler can't be run (No such file or directory)"),
        ({"CXX": "", "PATH": ""}, "there is no C++ compiler: neither c++, g++ nor clang++ is on the PATH"),
        ({"ARCHFLAGS": "-arch arm64 -arch x86_64"}, "ARCHFLAGS names several architectures"),
        ({"VAELENS_NATIVE": "skip"}, "VAELENS_NATIVE=skip was set"),
    ],
)
def test_why_there_is_no_library(
    environment: dict[str, str], reason: str, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(checkout.setup.NotBuiltError) as caught:
        checkout.build()
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_build_that_fails_keeps_the_reason_and_no_older_library(tmp_path: Path, checkout: Checkout) -> None:
    """By the command that builds it in a checkout: as the package's build does, but in a second."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    kernels = checkout.native.parent
    (kernels / "_native.so").write_bytes(b"old")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = dict(checkout.setup.os.environ) | {"CXX": "/bin/false"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    why = "the compiler /bin/false failed: it ended with status 1"
    assert ran.stderr.splitlines()[-1] == f"The native kernels weren't built, because {why}."
    assert not (kernels / "_native.so").exists()
    assert (kernels / "_native.txt").read_text("utf-8") == why + "\n"
    environment |= {"VAELENS_NATIVE": "required"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.endswith(f"because {why}. VAELENS_NATIVE=required was set.\n")
