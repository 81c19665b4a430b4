"""The wheel holds the data files, and its command runs the demo outside the checkout."""

import os
import re
import shlex
import shutil
import subprocess
import sys
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
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is written into the checkout, and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "_native.*")
    )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    run(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", "dist", cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_data_file(wheel: Path) -> None:
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "vaelens").rglob("*")}
    expected = {name for name in sources if Path(name).suffix in DATA | {".py"}}
    with zipfile.ZipFile(wheel) as opened:
        assert expected - set(opened.namelist()) == set()


def test_the_demo_runs_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    isolated = {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "VAELENS_CACHE": str(tmp_path / "none")}
    home = run(sys.executable, "-c", "import vaelens; print(vaelens.__file__)", cwd=tmp_path, **isolated)
    assert Path(home.strip()).is_relative_to(site)
    makefile = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", " ")
    demo = re.findall(r"^\t@\$\(BIN\)/vaelens (.*)$", makefile, re.M)
    assert len(demo) == 2
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for arguments in demo:
        few = shlex.split(arguments.replace("--take 24", "--take 2"))
        run(sys.executable, site / "bin" / "vaelens", *few, cwd=tmp_path, **isolated)
    for file in ("index.html", "sheet.png", "run.json", "evaluation/report.html"):
        assert (tmp_path / "demo" / file).is_file(), file
