"""Compiles the native kernels with driver.cpp under sanitizers, and runs them over many shapes.

    make sanitize                                          # AddressSanitizer and UndefinedBehaviorSanitizer
    .venv/bin/python tests/native/sanitize.py thread 60    # ThreadSanitizer; the number of maps may follow, and a seed

Ends with 1 at the first finding, or where a value is wrong. See docs/building.md.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SANITIZERS = {
    "address": "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all",
    "thread": "-fsanitize=thread",
}
WRAPPED = ("aligned_alloc", "calloc", "malloc")


def main(mode: str = "address", *arguments: str) -> int:
    os.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("vaelens_setup", "setup.py")
    assert spec
    assert spec.loader
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    os.environ["CXXFLAGS"] = f"{os.environ.get('CXXFLAGS', '')} -O1 -g -fno-omit-frame-pointer {SANITIZERS[mode]}"
    compiler = setup.Compiler(Path("build") / "sanitize" / mode)
    objects, left_out = compiler.compile_all()
    if left_out:
        print(f"Without the AMX paths: {left_out}.")
    flags, wrapping = [f"-I{setup.NATIVE}"], []
    if sys.platform == "linux":
        flags.append("-DVAELENS_FAILING_ALLOCATIONS")
        wrapping = [f"-Wl,--wrap={name}" for name in WRAPPED]
    objects.append(compiler.compile(Path("tests/native/driver.cpp"), flags))
    driver = compiler.objects / "driver"
    compiler.link(objects, driver, [*SANITIZERS[mode].split(), *wrapping])
    return subprocess.run([driver, *arguments], check=False).returncode and 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
