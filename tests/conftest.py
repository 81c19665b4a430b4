"""Small random VAEs on disk, the oracles' import, and the check that a test leaves the process as it was."""

import os
import random
import warnings
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import torch

import support.torchvision_operators  # noqa: F401
from support.browser.served import offer, server  # noqa: F401  (fixtures)
from support.browser.viewing import browser, open_page, open_path  # noqa: F401  (fixtures)
from support.process_state import changes, process_state
from support.vaes import random_vae
from vaelens.evaluation.results import Results
from vaelens.kernels.paths import TORCH, VARIABLE
from vaelens.vae import VAE

torch.set_num_threads(1)  # the same sums in the same order, in one process or in several at once
os.environ.setdefault("OMP_NUM_THREADS", "1")

STATE = pytest.StashKey[dict[str, object]]()


def pytest_configure(config: pytest.Config) -> None:
    """Imports what changes environment and warning filters once, before the first test, where tests are run.

    Of several processes that isn't the first one, for which the others would wait.
    """
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    with warnings.catch_warnings():  # what other packages deprecate while they load isn't ours to mend
        warnings.simplefilter("ignore")
        import accelerate  # noqa: F401
        import cv2  # noqa: F401
        import scipy.sparse
        import scipy.special  # noqa: F401
        import torchvision  # noqa: F401
        import transformers.models.clip  # noqa: F401
        from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline  # noqa: F401


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Each test begins with the same random numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    item.stash[STATE] = process_state()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Fails a test that leaves the process changed, once its fixtures are gone."""
    result = yield
    if changed := changes(item.stash[STATE], process_state()):
        pytest.fail("the process was left changed:\n" + "\n".join(changed), pytrace=False)
    return result


@pytest.fixture
def torch_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's path of PyTorch's operations: where a test compares more closely than the native ones compute."""
    monkeypatch.setenv(VARIABLE, TORCH)


@pytest.fixture
def vae() -> VAE:
    return random_vae()


@pytest.fixture
def vae_file(vae: VAE, tmp_path: Path) -> Path:
    return vae.save(tmp_path / "narrow.safetensors")


@pytest.fixture(scope="session")
def trunks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random metric networks by name, 220 MB on disk: what `evaluate` takes as `networks`."""
    from support.random_trunks import write_trunks

    return write_trunks(tmp_path_factory.mktemp("trunks"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `whole`; files with images of their own have another fixture of this name."""
    from support.small_run import make_photos

    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def two_vaes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from support.small_run import make_vaes

    return make_vaes(tmp_path_factory.mktemp("vaes"))


@pytest.fixture(scope="session")
def whole(photos: Path, two_vaes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """The reference: `photos` through `two_vaes`, one process, one go."""
    from support.small_run import make_whole

    return make_whole(two_vaes, photos, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def rewrite() -> Callable[..., Path]:
    """Copy a safetensors file with its tensors, names or metadata changed."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    def change(
        source: Path,
        target: Path,
        edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor] | None] = lambda t: t,
        metadata: dict[str, str] | None = None,
    ) -> Path:
        with safe_open(source, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            kept = opened.metadata()
        edited = edit(tensors)
        tensors = tensors if edited is None else edited
        save_file({n: t.contiguous() for n, t in tensors.items()}, target, kept if metadata is None else metadata)
        return target

    return change
