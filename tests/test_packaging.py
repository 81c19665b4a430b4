"""Wheel and sdist hold what they need, with and without a compiler; the command runs the demo outside the checkout."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DATA = {".toml", ".safetensors", ".json", ".txt", ".html", ".css", ".js", ".typed"}


def run(*command: object, cwd: Path, **more: str) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "1"} | more
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd, env=env)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that nothing is written into the checkout. What was compiled there needn't be compiled again."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(
        ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "_native.*")
    )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("_native.so", "_native.txt"):  # of an older build in the checkout: neither may be packed
        (folder / "src" / "vaelens" / "kernels" / name).write_text("old", "utf-8")
    if (ROOT / "build" / "native").is_dir():
        shutil.copytree(ROOT / "build" / "native", folder / "build" / "native")
    return folder


def build_wheel(source: Path, result: Path, **environment: str) -> Path:
    """By pip, without a network."""
    command = ["pip", "wheel", "--no-deps", "--no-build-isolation", "-w", result, source]
    run(sys.executable, "-m", *command, cwd=result.parent, **environment)
    (built,) = result.glob("*.whl")
    return built


def install(wheel: Path, site: Path) -> dict[str, str]:
    """The environment in which Python finds the installed package, and no other."""
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=site.parent)
    return {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "VAELENS_CACHE": str(site.parent / "none")}


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build_wheel(checkout, checkout / "dist")


@pytest.fixture(scope="module")
def sdist(checkout: Path) -> Path:
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", program, "sdist", cwd=checkout)
    (built,) = (checkout / "sdist").glob("*.tar.gz")
    return built


def test_the_wheel_holds_every_data_file(wheel: Path) -> None:
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "vaelens").rglob("*")}
    expected = {name for name in sources if Path(name).suffix in DATA | {".py"}}
    with zipfile.ZipFile(wheel) as opened:
        assert expected - set(opened.namelist()) == set()


def test_the_demo_runs_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    isolated = install(wheel, site)
    home = run(sys.executable, "-c", "import vaelens; print(vaelens.__file__)", cwd=tmp_path, **isolated)
    assert Path(home.strip()).is_relative_to(site)
    makefile = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", " ")
    demo = re.findall(r"^\t@\$\(BIN\)/vaelens (.*)$", makefile, re.M)
    assert [command.split()[0] for command in demo] == ["compare", "evaluate", "identify"]
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for arguments in demo:
        few = shlex.split(arguments.replace("--take 24", "--take 2"))
        run(sys.executable, site / "bin" / "vaelens", *few, cwd=tmp_path, **isolated)
    for file in ("index.html", "sheet.png", "run.json", "evaluation/report.html"):
        assert (tmp_path / "demo" / file).is_file(), file


SAY = "from vaelens.kernels import library; print(library.unavailable())"


def test_the_sdist_builds_the_native_library(sdist: Path, tmp_path: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    with tarfile.open(sdist) as opened:
        assert not [name for name in opened.getnames() if "_native." in name]
    wheel = build_wheel(sdist, tmp_path / "dist")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    with zipfile.ZipFile(wheel) as opened:
        native = [name for name in opened.namelist() if "_native." in name or "/native/" in name]
    assert [Path(name).stem for name in native] == ["_native"], "the sources, or a note of what is missing"
    said = run(sys.executable, "-c", SAY, cwd=tmp_path, **install(wheel, tmp_path / "site"))
    assert said == "None\n"


def test_the_sdist_installs_and_works_without_a_compiler(sdist: Path, tmp_path: Path) -> None:
    wheel = build_wheel(sdist, tmp_path / "dist", CC="/bin/false", CXX="")
    assert wheel.name.endswith("-py3-none-any.whl")
    isolated = install(wheel, tmp_path / "site")
    said = run(sys.executable, "-c", SAY, cwd=tmp_path, **isolated)
    why = "the compiler /bin/false failed: it ended with status 1"
    assert said.startswith(f"The native kernels weren't built, because {why}. To build them, install ")
    photo = ROOT / "examples" / "astronaut.png"
    run(
        sys.executable, tmp_path / "site/bin/vaelens", "reconstruct", photo, "-o", "strip.png", cwd=tmp_path, **isolated
    )
    assert (tmp_path / "strip.png").is_file()
