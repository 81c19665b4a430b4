"""The native library: its C interface as a compiler sees it, its threads, and the reasons why there is none."""

import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vaelens.errors import UsageError
from vaelens.kernels import library
from vaelens.resources import using_threads

NATIVE = Path(library.__file__).with_name("native")
HEADER = NATIVE / "convolution.h"
COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
needs_compiler = pytest.mark.skipif(COMPILER is None or sys.platform == "win32", reason="no C++ compiler")
not_windows = pytest.mark.skipif(sys.platform == "win32", reason="there is no library")
needs_library = pytest.mark.skipif(library.unavailable() is not None, reason="no native library")


def compiled(source: str, result: Path, *flags: str) -> Path:
    assert COMPILER is not None
    code = result.with_suffix(".cpp")
    code.write_text(source, "utf-8")
    subprocess.run([COMPILER, "-std=c++17", "-I", NATIVE, *flags, code, "-o", result], check=True)
    return result


@needs_compiler
def test_the_structures_lie_in_memory_as_the_header_says(tmp_path: Path) -> None:
    lines = []
    for mirror, name in ((library.Kernel, "vaelens_kernel"), (library.Strip, "vaelens_strip")):
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        fields = [field[0] for field in mirror._fields_]
        lines += [f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));' for field in fields]
    source = f'#include <cstddef>\n#include <cstdio>\n#include "convolution.h"\nint main() {{ {"".join(lines)} }}\n'
    said = subprocess.run([compiled(source, tmp_path / "offsets")], capture_output=True, text=True, check=True).stdout
    expected = []
    for mirror, name in ((library.Kernel, "vaelens_kernel"), (library.Strip, "vaelens_strip")):
        expected.append(f"{name} {ctypes.sizeof(mirror)}")
        expected += [f"{name}.{field[0]} {getattr(mirror, field[0]).offset}" for field in mirror._fields_]
    assert said.split("\n")[:-1] == expected


def test_the_structures_and_enumerations_have_every_name_of_the_header() -> None:
    header = re.sub(r"//.*", "", HEADER.read_text("utf-8"))
    for name, mirror in (("kernel", library.Kernel), ("strip", library.Strip)):
        (body,) = re.findall(rf"struct vaelens_{name} {{(.*?)}};", header, re.DOTALL)
        declared = re.findall(r"(\w+)\s*[,;]", body)
        assert declared == [field[0] for field in mirror._fields_]
    for mirror in (library.Arithmetic, library.Instructions, library.Activation, library.Status):
        (body,) = re.findall(rf"enum vaelens_{mirror.__name__.lower()} {{(.*?)}};", header)
        declared = {name: int(value) for name, value in re.findall(r"VAELENS_(\w+) = (\d+)", body)}
        assert declared == {member.name: member.value for member in mirror}


def test_the_interface_version_is_the_headers() -> None:
    (version,) = re.findall(r"#define VAELENS_INTERFACE_VERSION (\d+)", HEADER.read_text("utf-8"))
    assert int(version) == library.INTERFACE_VERSION


@needs_library
def test_every_function_of_the_header_is_declared() -> None:
    native = library.load()
    names = re.findall(r"\b(vaelens_\w+)\(", HEADER.read_text("utf-8"))
    assert len(names) == 8
    for name in set(names) - {"vaelens_interface_version"}:
        assert getattr(native, name).argtypes is not None, name
    assert native.vaelens_interface_version() == library.INTERFACE_VERSION
    assert {library.Instructions(native.vaelens_instructions(arithmetic)) for arithmetic in library.Arithmetic}


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="names what Linux has loaded")
def test_the_openmp_library_is_the_one_that_pytorch_loaded() -> None:
    address = library._gomp_parallel()
    assert address is not None
    holders = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        region, *_, name = line.split()
        begin, end = (int(bound, 16) for bound in region.split("-"))
        if begin <= address < end:
            holders.add(name)
    assert len(holders) == 1
    assert "omp" in Path(holders.pop()).name


@not_windows
def test_a_library_that_was_not_built_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "PATH", tmp_path / "_native.so")
    assert f"there is no _native.so in {tmp_path}" in str(library.unavailable())
    monkeypatch.setattr(library, "PATH", tmp_path / "noted" / "_native.so")
    (tmp_path / "noted").mkdir()
    (tmp_path / "noted" / "_native.txt").write_text("there is no C++ compiler\n", "utf-8")
    reason = library.unavailable()
    assert reason is not None
    assert reason.startswith(
        "The native kernels weren't built, because there is no C++ compiler. To build them, install"
    )
    with pytest.raises(UsageError, match="there is no C"):
        library.load()


@not_windows
def test_a_file_that_is_no_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "PATH", tmp_path / "_native.so")
    (tmp_path / "_native.so").write_bytes(b"no library")
    assert str(library.unavailable()).startswith("The native kernels can't be loaded, because ")
    assert library.left_out() is None


def test_on_windows_nobody_is_told_to_build_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "PATH", tmp_path / "_native.so")
    monkeypatch.setattr(sys, "platform", "win32")
    assert library.unavailable() == (
        "There are no native kernels for Windows. PyTorch's operations serve, which are slower."
    )


@needs_compiler
@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('extern "C" int vaelens_interface_version() { return 0; }', "version 0"),
        ('extern "C" int something_else() { return 0; }', "of an unknown version"),
    ],
)
def test_a_library_of_another_interface_is_refused(
    source: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "PATH", compiled(source, tmp_path / "_native.so", "-shared", "-fPIC"))
    assert f"is {found}, and this vaelens needs version {library.INTERFACE_VERSION}." in str(library.unavailable())


@needs_library
def test_what_was_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copy(library.PATH, tmp_path))
    monkeypatch.setattr(library, "PATH", copy)
    assert library.left_out() is None
    copy.with_suffix(".txt").write_text("the compiler g++ doesn't know the AMX instructions\n", "utf-8")
    assert library.left_out() == "the compiler g++ doesn't know the AMX instructions"


class Example:
    """A convolution of a random image on the portable path, ready to be computed on any number of threads."""

    def __init__(self) -> None:
        self.native = library.load()
        self.kernel = library.Kernel(library.Arithmetic.FP32, library.Instructions.PORTABLE, 16, 16, 3, 3, 1, 1, 1, 1)
        self.weights, self.image = torch.randn(16, 16, 3, 3), torch.randn(64, 64, 16)
        self.packed = torch.empty(self.native.vaelens_packed_bytes(self.kernel) + 64, dtype=torch.uint8)
        self.aligned = self.packed.data_ptr() + -self.packed.data_ptr() % 64
        assert self.native.vaelens_pack(self.kernel, self.weights.data_ptr(), 1, self.aligned) == library.Status.OK

    def compute(self, threads: int, rows: int = 64) -> torch.Tensor:
        output = torch.empty(rows, 64, 16)
        strip = library.Strip(
            input=self.image.data_ptr(),
            in_rows=64,
            in_height=64,
            in_width=64,
            in_stride=16,
            threads=threads,
            weights=self.aligned,
            output=output.data_ptr(),
            out_rows=rows,
            out_width=64,
        )
        assert self.native.vaelens_convolve(self.kernel, strip) == library.Status.OK
        return output


@needs_library
def test_strips_are_shared_among_the_threads_of_the_openmp_library_given() -> None:
    """The team here is one thread that says how many were asked for, and the values are the same.

    It is asked for all of them where there is work for two: a smaller team would end threads of PyTorch's.
    """
    example, asked = Example(), []

    @ctypes.CFUNCTYPE(None, ctypes.CFUNCTYPE(None, ctypes.c_void_p), ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def team(function: Callable[[int], None], data: int, threads: int, _: int) -> None:
        asked.append(threads)
        function(data)

    alone = example.compute(1)
    example.native.vaelens_use_openmp(ctypes.cast(team, ctypes.c_void_p))
    try:
        shared, low = example.compute(3), example.compute(3, rows=8)
    finally:
        example.native.vaelens_use_openmp(library._gomp_parallel())
    assert asked == [3, 3]
    assert torch.equal(alone, shared)
    assert torch.equal(alone[:8], low)
    expected = torch.nn.functional.conv2d(example.image.permute(2, 0, 1)[None], example.weights, padding=1)
    assert torch.allclose(alone, expected[0].permute(1, 2, 0), atol=1e-4)


@needs_library
@pytest.mark.skipif(library._gomp_parallel() is None, reason="PyTorch has another OpenMP library")
def test_no_second_pool_of_threads_is_started() -> None:
    """OpenMP's threads stay: PyTorch's two are there after its operation, and no more after ours."""
    example, threads = Example(), Path("/proc/self/task")
    with using_threads(2):
        torch.randn(1000, 1000).mul_(2)
        before = len(list(threads.iterdir()))
        assert torch.equal(example.compute(2), example.compute(1))
        assert len(list(threads.iterdir())) == before
