"""Builds the native kernels into one shared library beside `vaelens/kernels`; all else is in pyproject.toml.

    python setup.py build_ext --inplace    # for the sources of this checkout, without installing anything

Without a compiler the installation succeeds all the same, and the reason is kept beside the package for
`vaelens.kernels.library` to say. VAELENS_NATIVE=required makes it an error instead, VAELENS_NATIVE=skip builds none.
See docs/building.md.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/vaelens/kernels/native")
OBJECTS = Path("build/native")  # kept, so that a later build compiles only what changed
NAME = "vaelens.kernels._native"
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"

BASELINE = ("dispatch", "parallel", "fp32_portable", "split_portable")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
X86_64 = {  # the slowest to compile first
    "split_amx": ("-mamx-tile", "-mamx-bf16", "-mavx512bf16", *AVX512),
    "fp32_avx512": AVX512,
    "fp32_avx2": ("-mavx2", "-mfma"),
}
# -ffp-contract stays at the compiler's default, and neither -march nor fast-math is given: what a path computes must
# depend on the path alone.
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi")


class NotBuiltError(Exception):
    """Why there is no library, as the part of a sentence after "because"."""


class Compiler:
    """The C++ compiler that CXX or CC name, else Python's own or the first of the usual ones."""

    def __init__(self, objects: Path = OBJECTS) -> None:
        self.objects = objects
        objects.mkdir(parents=True, exist_ok=True)
        self.command, self.libraries = _compiler_command()
        environment = os.environ
        architectures = shlex.split(environment.get("ARCHFLAGS", ""))
        if architectures.count("-arch") > 1:
            raise NotBuiltError(f"ARCHFLAGS names several architectures ({' '.join(architectures)}); name one")
        self.flags = [
            *FLAGS,
            *architectures,
            *shlex.split(environment.get("CPPFLAGS", "")),
            *shlex.split(environment.get("CXXFLAGS", "")),
        ]
        self.link_flags = ["-pthread", *architectures, *shlex.split(environment.get("LDFLAGS", ""))]
        if sys.platform != "darwin":  # where it is the default
            self.link_flags.append("-Wl,-z,defs")
        macros = self._run([*self.flags, "-dM", "-E", "-x", "c++", os.devnull])
        if "__GNUC__" not in macros:
            raise NotBuiltError(f"{self.command[0]} is neither GCC nor Clang")
        self.x86_64 = "__x86_64__" in macros
        self.identity = hashlib.sha256(macros.encode()).hexdigest()  # of its version and of the flags' meaning

    def knows_amx(self) -> bool:
        """Whether compiler and assembler know the tile instructions and their flags."""
        probe, assembled = self.objects / "amx.cpp", self.objects / "amx.o"
        assembled.unlink(missing_ok=True)
        probe.write_text('void probe() { __asm__("tdpbf16ps %tmm0, %tmm1, %tmm2"); }\n')
        try:
            self._run([*self.flags, *X86_64["split_amx"], "-c", probe.as_posix(), "-o", str(assembled)], assembled)
        except NotBuiltError:
            return False
        return True

    def compile(self, source: Path, flags: list[str]) -> Path:
        """The object file of a source, compiled only where the one kept is of other contents or another command."""
        command = [*self.flags, *flags, "-c", source.as_posix()]
        digest = hashlib.sha256("\0".join([self.identity, *self.command, *command]).encode())
        for path in _with_includes(source):
            digest.update(path.read_bytes())
        kept, key = self.objects / f"{source.stem}.o", self.objects / f"{source.stem}.key"
        if kept.is_file() and key.is_file() and key.read_text() == digest.hexdigest():
            return kept
        key.unlink(missing_ok=True)
        kept.unlink(missing_ok=True)
        self._run([*command, "-o", kept.as_posix()], kept)
        key.write_text(digest.hexdigest())
        return kept

    def compile_all(self) -> tuple[list[Path], str | None]:
        """The objects of the library, and why something had to be left out of it, in words."""
        flags = {name: list(own) for name, own in X86_64.items()} if self.x86_64 else {}
        flags |= {name: [] for name in BASELINE}
        left_out = None
        if "split_amx" in flags and not self.knows_amx():
            del flags["split_amx"]
            flags["dispatch"].append("-DVAELENS_WITHOUT_AMX")
            left_out = f"the compiler {shlex.join(self.command)} doesn't know the AMX instructions"
        with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
            objects = list(pool.map(lambda name: self.compile(NATIVE / f"{name}.cpp", flags[name]), flags))
        return objects, left_out

    def link(self, objects: list[Path], result: Path, flags: list[str]) -> None:
        result.parent.mkdir(parents=True, exist_ok=True)
        names = [path.as_posix() for path in objects]
        self._run([*flags, *self.link_flags, *names, "-o", str(result), *self.libraries], result)

    def _run(self, arguments: list[str], result: Path | None = None) -> str:
        try:
            ran = subprocess.run(
                [*self.command, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env=os.environ | {"LC_ALL": "C"},  # "error" is looked for in what it says
            )
        except OSError as error:
            raise NotBuiltError(f"the compiler {self.command[0]} can't be run ({error.strerror})") from error
        if ran.stderr:
            print(ran.stderr, file=sys.stderr)
        if ran.returncode != 0 or (result and not result.is_file()):
            errors = [line for line in ran.stderr.splitlines() if "error" in line or "undefined" in line]
            why = errors[0].strip() if errors else f"it ended with status {ran.returncode}"
            of = f" building {result.name}" if result else ""
            raise NotBuiltError(f"the compiler {shlex.join(self.command)} failed{of}: {why}")
        return ran.stdout


def _compiler_command() -> tuple[list[str], list[str]]:
    """The command, and the libraries that it must be told to link."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named, []
    if named := shlex.split(os.environ.get("CC", "")):  # compiles C++, but links for C
        return named, ["-lc++" if sys.platform == "darwin" else "-lstdc++"]
    usual = [shlex.split(sysconfig.get_config_var("CXX") or ""), ["c++"], ["g++"], ["clang++"]]
    for command in usual:
        if command and shutil.which(command[0]):
            return command, []
    raise NotBuiltError("there is no C++ compiler: neither c++, g++ nor clang++ is on the PATH")


def _with_includes(source: Path) -> list[Path]:
    found = [source]
    for path in found:  # grows
        for name in re.findall(r'^\s*#\s*include "(.+)"', path.read_text("utf-8"), re.MULTILINE):
            candidates = (path.parent / name, NATIVE / name)
            found += [other for other in candidates if other.is_file() and other not in found][:1]
    return found


def build_library(library: Path) -> str | None:
    """Compile the sources and link them into `library`; what had to be left out, in words. Raises NotBuiltError."""
    if os.environ.get("VAELENS_NATIVE") == "skip":
        raise NotBuiltError("VAELENS_NATIVE=skip was set")
    if sys.platform == "win32":
        raise NotBuiltError("they aren't built on Windows")
    compiler = Compiler()
    objects, left_out = compiler.compile_all()
    compiler.link(objects, library, ["-shared"])
    return left_out


class BuildNative(build_ext):
    """Builds the library, or keeps the reason why there is none in a text file beside it."""

    not_built: str | None = None

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + SUFFIX

    def run(self) -> None:
        library = Path(self.get_ext_fullpath(NAME))
        note = library.with_suffix(".txt")
        library.unlink(missing_ok=True)  # one of older sources must not serve
        note.unlink(missing_ok=True)
        said = None
        try:
            if left_out := build_library(library):
                said = f"Left out of the native kernels: the AMX paths, because {left_out}."
                note.write_text(left_out + "\n", "utf-8")
        except (NotBuiltError, OSError) as error:  # OSError: a full disk, say
            self.not_built = str(error)
            said = f"The native kernels weren't built, because {error}."
            library.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(self.not_built + "\n", "utf-8")
        if said and os.environ.get("VAELENS_NATIVE") == "required":
            raise SystemExit(f"{said} VAELENS_NATIVE=required was set.")
        if said:
            print(said, file=sys.stderr)

    def get_outputs(self) -> list[str]:
        library = Path(self.get_ext_fullpath(NAME))
        return [str(path) for path in (library, library.with_suffix(".txt")) if path.is_file()]


class NativeWheel(bdist_wheel):
    """The library needs a platform, but no version of Python; a wheel without it serves everywhere."""

    def get_tag(self) -> tuple[str, str, str]:
        platform = super().get_tag()[2]
        if self.get_finalized_command("build_ext").not_built:
            return "py3", "none", "any"
        if platform.endswith("universal2"):  # the Python for both architectures of macOS; the library is of one
            named = shlex.split(os.environ.get("ARCHFLAGS", ""))
            platform = platform.replace("universal2", named[-1] if named else os.uname().machine)
        return "py3", "none", platform


if __name__ == "__main__":
    if os.environ.get("VAELENS_NATIVE", "") not in ("", "required", "skip"):
        raise SystemExit(f"VAELENS_NATIVE={os.environ['VAELENS_NATIVE']}: it may be `required` or `skip`.")
    setup(
        ext_modules=[
            Extension(
                NAME,
                sources=[(NATIVE / f"{name}.cpp").as_posix() for name in (*BASELINE, *X86_64)],
                depends=sorted(path.as_posix() for kind in ("*.h", "*.inl") for path in NATIVE.glob(kind)),
                optional=True,
            )
        ],
        cmdclass={"build_ext": BuildNative, "bdist_wheel": NativeWheel},
    )
