"""The article's snippet, and what else people do with a VAE of diffusers: with ours it is the same, bit for bit."""

import copy
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import numpy as np
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrize

import vaelens as vl
from support import pipelines
from support.vaes import NARROW, TINY, random_vae
from vaelens.errors import BadInputError, UsageError
from vaelens.families.spec import NetworkConfig
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.networks.tiny import TinyAutoencoderConfig

ROOT = Path(__file__).parents[2]
KINDS = {"kl": pipelines.vae, "tiny": pipelines.tiny_vae}
PIPELINES = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL"}
JOBS = ["", "Img2Img", "Inpaint"]
PIXELS = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module", params=KINDS)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE as diffusers saves it."""
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("vaes") / request.param
    KINDS[request.param]().save_pretrained(made)
    return made


@pytest.fixture(scope="module", params=PIPELINES)
def parts(request: Any) -> tuple[str, dict[str, Any]]:
    """A pipeline's name and parts."""
    return PIPELINES[request.param], getattr(pipelines, request.param)().components


def plain(folder: Path) -> Any:
    """As someone without vaelens loads it."""
    kind = json.loads((folder / "config.json").read_text())["_class_name"]
    return getattr(diffusers, kind).from_pretrained(folder)


def ours(folder: Path) -> Any:
    return vl.as_diffusers(vl.load(folder, device="cpu"))


@torch.no_grad()
def there_and_back(model: Any, pixels: Tensor = PIXELS) -> Tensor:
    encoded = model.encode(pixels)
    z = encoded.latents if "latents" in encoded else encoded.latent_dist.mode()
    return model.decode(z).sample


def run(name: str, parts: dict[str, Any], job: str = "", dtype: torch.dtype = torch.float32) -> tuple[Any, Tensor]:
    """The image, and the next random number."""
    random = np.random.default_rng(0)
    options = {"image": Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "strength": 0.8}
    options = options if job else {}
    if job == "Inpaint":
        options |= {"mask_image": Image.fromarray(np.tri(64, dtype=np.uint8) * 255), "height": 64, "width": 64}
    pipe = getattr(diffusers, f"{name}{job}Pipeline")(**parts).to(dtype)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(0)
    with warnings.catch_warnings():  # diffusers' on its own options
        warnings.simplefilter("ignore")
        made = pipe("a cat", num_inference_steps=2, generator=generator, output_type="np", **options)
    return made.images, torch.rand(1, generator=generator)


@pytest.mark.parametrize("job", JOBS)
def test_each_pipeline_makes_the_same_image_and_draws_the_same_noise(
    parts: tuple[str, dict[str, Any]], folder: Path, job: str
) -> None:
    (expected, after), (made, ours_after) = (
        run(parts[0], parts[1] | {"vae": load(folder)}, job) for load in (plain, ours)
    )
    assert np.isfinite(expected).all()
    assert np.array_equal(made, expected)
    assert torch.equal(after, ours_after)


CONFIGS: dict[str, tuple[NetworkConfig, dict[str, Any]]] = {
    "sd1": (NARROW, {}),
    "sdxl": (NARROW, {"scale": 0.13025}),
    "flux1": (
        AutoencoderKLConfig(
            latent_channels=16, block_out_channels=(4, 8), norm_num_groups=2, use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        {"scale": 0.3611, "shift": 0.1159},
    ),
    "no attention": (
        AutoencoderKLConfig(block_out_channels=(4,), norm_num_groups=4, mid_block_add_attention=False), {},
    ),
    "tiny": (TINY, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_class_of_diffusers_with_all_its_config_and_our_tensors(name: str, tmp_path: Path) -> None:
    config, numbers = CONFIGS[name]
    vae = random_vae(config, **numbers)
    vae.network.encoder.requires_grad_(False)
    model, expected = vl.as_diffusers(vae), plain(vae.save(tmp_path / "vae"))
    assert type(model) is type(expected)
    assert type(model).__module__.startswith("diffusers.")
    assert [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in expected.named_modules()]
    assert not any(module.training for module in model.modules())
    assert vars(model).keys() == vars(expected).keys()
    differing = {f for f in {*model.config, *expected.config} if model.config.get(f) != expected.config.get(f)}
    assert differing <= {"_name_or_path", "_use_default_values"}  # where it was loaded from
    own = dict(vae.network.named_parameters())
    assert dict(model.named_parameters()).keys() == own.keys()
    for parameter_name, parameter in model.named_parameters():
        assert parameter is own[parameter_name]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n in own if not n.startswith("encoder.")
    }
    # Not bit for bit: where weights lie in memory decides which way the CPU's libraries take.
    torch.testing.assert_close(there_and_back(model), there_and_back(expected), rtol=0, atol=3e-5)
    if name == "flux1":
        assert (model.config.use_quant_conv, model.config.use_post_quant_conv) == (False, False)


def test_a_pipeline_saved_with_it_loads_in_plain_diffusers(folder: Path, tmp_path: Path) -> None:
    vae = vl.load(folder, device="cpu")
    pipe = pipelines.sd()
    pipe.vae = vl.as_diffusers(vae)
    pipe.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", json.loads((folder / "config.json").read_text())["_class_name"]]
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    made, expected = (run("StableDiffusion", one.components)[0] for one in (again, pipe))
    assert np.array_equal(made, expected)
    assert vl.load(tmp_path / "saved", device="cpu").fingerprint == vae.fingerprint


@pytest.mark.parametrize(
    "duplicate", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_copies_work_and_share_nothing(folder: Path, duplicate: Callable[[Any], Any]) -> None:
    model = ours(folder)
    other = duplicate(model)
    expected = there_and_back(model)
    assert torch.equal(there_and_back(other), expected)
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    assert torch.equal(there_and_back(model), expected)


def test_the_posterior_has_all_that_diffusers_has(folder: Path) -> None:
    if folder.name == "tiny":
        encoded = [model.encode(PIXELS) for model in (ours(folder), plain(folder))]
        assert type(encoded[0]) is type(encoded[1])
        assert torch.equal(encoded[0].latents, encoded[1].latents)
        return
    a, b = (model.encode(PIXELS).latent_dist for model in (ours(folder), plain(folder)))
    for name in ("mean", "std", "var", "logvar", "parameters"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(a.kl(), b.kl())
    assert torch.equal(a.kl(b), b.kl(b))
    assert torch.equal(a.nll(a.mean), b.nll(b.mean))
    assert torch.equal(*(d.sample(torch.Generator().manual_seed(1)) for d in (a, b)))


@pytest.mark.parametrize("way", ["enable_tiling", "enable_slicing"])
def test_tiling_and_slicing_are_diffusers_own(folder: Path, way: str) -> None:
    pixels, made = torch.rand(2, 3, 64, 96) * 2 - 1, []
    for model in (ours(folder), plain(folder)):
        getattr(model, way)()
        assert model.use_tiling is (way == "enable_tiling")
        made.append(there_and_back(model, pixels))
    assert torch.equal(*made)


def test_it_follows_the_pipelines_dtype_and_device(folder: Path) -> None:
    vae = vl.load(folder, device="cpu")
    model = vl.as_diffusers(vae)
    images, _ = run("StableDiffusion", pipelines.sd().components | {"vae": model}, dtype=torch.bfloat16)
    assert model.dtype == vae.dtype == torch.bfloat16
    assert np.isfinite(images).all()


def test_training_it_trains_the_vae(folder: Path) -> None:
    vae = vl.load(folder, device="cpu")
    before = vae.fingerprint
    model = vl.as_diffusers(vae).train()
    model.decoder.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    encoded = model.encode(PIXELS)
    (encoded.latents if "latents" in encoded else encoded.latent_dist.mean).sum().backward()
    optimizer.step()
    assert (vae.fingerprint.encoder != before.encoder, vae.fingerprint.decoder == before.decoder) == (True, True)


@pytest.mark.parametrize(
    "offload",
    [
        lambda model: accelerate.cpu_offload(model, execution_device=torch.device("cpu")),
        lambda model: accelerate.cpu_offload_with_hook(model, execution_device="cpu")[0],
        lambda model: (
            apply_group_offloading(model, torch.device("cpu"), offload_type="leaf_level", use_stream=False) or model
        ),
    ],
    ids=["sequential", "whole model", "groups"],
)
def test_offloading_attaches_and_runs(folder: Path, offload: Callable[[Any], Any]) -> None:
    vae = vl.load(folder, device="cpu")
    model = offload(vl.as_diffusers(vae))
    assert any(hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook") for module in model.modules())
    assert torch.equal(there_and_back(model), there_and_back(plain(folder)))


class LowRank(nn.Module):
    """W + B A, as adapters add it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        flat = weight.flatten(1)
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.randn(2, flat.shape[1], generator=generator))
        self.b = nn.Parameter(torch.randn(len(flat), 2, generator=generator))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.b @ self.a).view_as(weight)


def adapt(model: nn.Module) -> list[str]:
    """A low-rank adapter on each linear layer and convolution, as PEFT wraps them; gives their names."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for _, layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))
    return [name for name, _ in layers]


def test_adapters_and_hooks_on_its_layers_have_the_effect_that_they_have_in_diffusers(folder: Path) -> None:
    """Every layer runs: an adapter or a hook on it isn't passed by."""
    made = []
    for load in (ours, plain):
        model, called = load(folder), set[str]()
        names = adapt(model)
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *_, add=called.add, name=name: add(name))
        made.append(there_and_back(model))
        assert {*names} <= called
    assert torch.equal(*made)
    assert not torch.allclose(made[0], there_and_back(ours(folder)))


def test_diffusers_own_ways_to_change_a_model_apply(folder: Path) -> None:
    model, expected = ours(folder), plain(folder)
    for one in (model, expected):
        one.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
        if folder.name == "kl":
            one.set_attn_processor(AttnProcessor())
    assert torch.equal(there_and_back(model), there_and_back(expected))
    assert model.decoder.conv_out.weight.dtype == torch.bfloat16 if folder.name == "kl" else True


@pytest.mark.slow
def test_it_compiles_in_one_graph(folder: Path) -> None:
    model = ours(folder)
    z = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        expected = model.decode(z).sample
        made = torch.compile(model.decoder, backend="eager", fullgraph=True)(
            z if folder.name == "tiny" else model.post_quant_conv(z)
        )
    assert torch.equal(made, expected)


COMPILE = """
import sys
import support.torchvision_operators
import torch
import vaelens as vl
model = vl.as_diffusers(vl.load(sys.argv[1], device="cpu"))
z = torch.randn(1, 4, 4, 4)
with torch.no_grad():
    expected = model.decode(z).sample
    model.decode = torch.compile(model.decode)
    torch.testing.assert_close(model.decode(z).sample, expected, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["kl"], indirect=True)
def test_it_compiles_to_machine_code(folder: Path) -> None:
    """In a process of its own, whose settings the compiler changes."""
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))
    command = [sys.executable, "-c", COMPILE, str(folder)]
    env = os.environ | {"PYTHONPATH": path}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=240)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (AutoencoderKLConfig(block_out_channels=(4,), norm_num_groups=4, norm_eps=1e-5), r"\(norm_eps 1e-05\)"),
        (TinyAutoencoderConfig(latent_channels=32, width=8, mid_block_pool=True), "a tiny autoencoder with pools"),
    ],
)
def test_a_network_that_diffusers_does_not_have_is_refused(config: NetworkConfig, reason: str) -> None:
    with pytest.raises(UsageError, match=f"random can't become a model of diffusers, .*{reason}"):
        vl.as_diffusers(random_vae(config))


@pytest.mark.parametrize("value", ["wide", None, [], {"side": 3}])
def test_a_config_that_diffusers_refuses_is_an_error_that_names_it(tmp_path: Path, value: object) -> None:
    file = random_vae().save(tmp_path / "vae") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": value}))
    vae = vl.load(tmp_path / "vae", device="cpu")
    with pytest.raises(BadInputError, match=f"^{tmp_path.name}: diffusers' AutoencoderKL refuses its config"):
        vl.as_diffusers(vae)


def test_only_vaes_are_taken() -> None:
    with pytest.raises(TypeError, match="takes a VAE"):
        vl.as_diffusers("tiny-ft-mse")  # type: ignore[arg-type]
