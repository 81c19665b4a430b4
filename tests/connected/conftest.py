"""A small world that the whole program runs in: a hub, a web server and a registry of small random VAEs."""

import contextlib
import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import skimage
import torch
from PIL import Image

from connected.__main__ import main
from support import pipelines
from support.random_trunks import random_inception, random_vgg16
from support.small_run import SIDE
from support.standins.hub import HubStandin
from support.standins.web import WebStandin
from support.vaes import random_vae
from vaelens.download.web_files import WebFile
from vaelens.evaluation.presets import PRESETS
from vaelens.images.datasets import coco
from vaelens.metrics import pretrained
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.vae import VAE
from vaelens.weights.registry import Entry, PublishedFile, Score, registry

WEIGHTS = "diffusion_pytorch_model.safetensors"
MODEL_REPO = "CompVis/stable-diffusion-v1-4"
SMALL = AutoencoderKLConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4)
TINY = TinyAutoencoderConfig(width=8)
POOLED = dataclasses.replace(TINY, mid_block_pool=True)
IMAGES = 3
WRONG = Score(set=coco.NAME, images=IMAGES, rfid=1, psnr=99, psnr_std=1, ssim=0.5, ssim_std=9, psim=1, psim_std=9)


class Called(NamedTuple):
    """One call of the program: exit code, what it printed, and its report as it was then."""

    code: int
    output: str
    markdown: str
    report: dict[str, Any]
    fetched: list[str]  # paths that the hub was asked for

    def step(self, name: str) -> dict[str, Any]:
        return next(step for step in self.report["steps"] if step["name"] == name)


class World:
    """The stand-ins and the registry, in place while `patch` holds; with `web` also metric networks and COCO."""

    def __init__(self, place: Path, patch: pytest.MonkeyPatch, hub: HubStandin, web: WebStandin | None = None) -> None:
        self.place, self.patch, self.hub = place, patch, hub
        hub.use(patch, place)
        patch.setenv("HF_TOKEN", "hf_secretsecretsecret")
        self._models()
        if web is not None:
            self._metrics(web)
            self._coco(web)

    def call(self, *arguments: object) -> Called:
        folder = self.place / "run"
        self.hub.requests.clear()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            options = ["-o", folder, "--device", "cpu", "--take", IMAGES - 1, "--steps", 2, *arguments]
            code = main([str(option) for option in options])
        markdown, report = folder / "report.md", folder / "report.json"
        fetched = [request.path for request in self.hub.requests if request.method == "GET"]
        if not report.exists():
            return Called(code, printed.getvalue(), "", {}, fetched)
        return Called(code, printed.getvalue(), markdown.read_text(), json.loads(report.read_text()), fetched)

    def publish(self, repo: str, vae: VAE, name: str = "vae") -> Path:
        """A VAE in diffusers' layout, without the metadata that our files have."""
        folder = vae.save(self.place / repo.replace("/", "-") / name)
        pipelines.publish(self.hub, repo, folder)
        return folder / WEIGHTS

    def entry(self, name: str, repo: str, weights: Path, file: str = WEIGHTS, **more: Any) -> None:
        content = weights.read_bytes()
        published = PublishedFile(name=file, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        fields = {"title": name, "space": "sd1", "licence": "MIT", "repo": repo, "revision": self.hub.commit(repo)}
        registry().vaes[name] = Entry(**fields | {"files": (published,)} | more)

    def change(self, name: str, **fields: Any) -> None:
        known = registry().vaes
        known[name] = known[name].model_copy(update=fields)

    def _models(self) -> None:
        known = registry()
        known.vaes.clear()
        for name, family, config in (("small", "kl", SMALL), ("tiny", "tiny", TINY), ("pooled", "tiny", POOLED)):
            self.patch.setitem(known.configs, name, {"family": family, **dataclasses.asdict(config)})
        self.patch.setitem(known.spaces, "sd1", known.spaces["sd1"].model_copy(update={"config": "small"}))
        folder = pipelines.write(pipelines.sd(with_safety_checker=False), self.place / "model")
        pipelines.publish(self.hub, MODEL_REPO, folder)
        self.entry("kl-f8", MODEL_REPO, folder / "vae" / WEIGHTS, f"vae/{WEIGHTS}", scores=(WRONG,))
        for seed, name in enumerate(("ft-ema", "ft-mse"), 1):
            weights = self.publish(f"someone/{name}", random_vae(SMALL, seed))
            self.entry(name, f"someone/{name}", weights, scores=(WRONG,) if name == "ft-mse" else ())
        weights = self.publish("someone/tiny", random_vae(TINY))
        self.entry("taesd", "someone/tiny", weights, config="tiny")
        weights = random_vae(POOLED).save(self.place / "pooled.safetensors")
        self.hub.add("someone/pooled", "pooled.safetensors", weights.read_bytes())
        self.entry("pooled", "someone/pooled", weights, "pooled.safetensors", config="pooled")
        self.publish("someone/gated", random_vae(SMALL, 5))
        self.entry("gated", "someone/gated", self.place / "someone-gated" / "vae" / WEIGHTS)

    def _metrics(self, web: WebStandin) -> None:
        entries = dict(pretrained.network_files())
        for name, state in (("inception", random_inception()), ("vgg16", random_vgg16())):
            file = io.BytesIO()
            torch.save(state, file)
            content = file.getvalue()
            update = {"urls": (web.add(f"/{name}", content),), "bytes": len(content)}
            entries[name] = entries[name].model_copy(update=update | {"sha256": hashlib.sha256(content).hexdigest()})
        self.patch.setattr(pretrained, "network_files", lambda: entries)
        self.patch.setitem(PRESETS, "card-2022", dataclasses.replace(PRESETS["card-2022"], side=SIDE))

    def _coco(self, web: WebStandin) -> None:
        photo = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
        images: dict[str, bytes] = {}
        for number in range(IMAGES):
            file = io.BytesIO()
            photo.crop((60 * number, 40, 60 * number + 90, 130)).save(file, "PNG")
            images[f"val2017/{number:012}.png"] = file.getvalue()
        table: dict[str, Any] = {"images": [], "annotations": []}
        table["categories"] = [{"id": 1, "keypoints": ["left_eye", "right_eye"]}]
        contents = {
            "images": images,
            "annotations": {"annotations/person_keypoints_val2017.json": json.dumps(table).encode()},
        }
        files: dict[str, WebFile] = {}
        for what, members in contents.items():
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
            content = file.getvalue()
            url = web.add(f"/{what}.zip", content)
            files[what] = WebFile((url,), f"coco/{what}.zip", len(content), hashlib.sha256(content).hexdigest())
        self.patch.setattr(coco, "coco_files", lambda: files)


@contextlib.contextmanager
def kept(table: dict[str, Any]) -> Generator[None]:
    """After this context the table is what it was, in its order."""
    before = dict(table)
    try:
        yield
    finally:
        table.clear()
        table.update(before)


@pytest.fixture(scope="module")
def new_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[World]]:
    """Makes a world that ends with its `with` block: a fixture mustn't leave the process changed for longer."""

    @contextlib.contextmanager
    def made(*, scores: bool = False) -> Generator[World]:
        place = tmp_path_factory.mktemp("connected")
        with kept(registry().vaes), pytest.MonkeyPatch.context() as patch, HubStandin() as hub, WebStandin() as web:
            patch.setenv("HOME", str(place))
            yield World(place, patch, hub, web if scores else None)

    return made
