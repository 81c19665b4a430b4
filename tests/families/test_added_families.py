"""A family is one file and its tables: two that run classes of diffusers, added from `added/`, and nothing else."""

import json
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import diffusers
import pytest
import torch

import vaelens as vl
import vaelens.families
from support.vaes import same_bytes
from vaelens.adapters.autoencoders import build_network
from vaelens.families.discovery import families, recognise
from vaelens.resources import seeded
from vaelens.vae import VAE
from vaelens.weights.registry import registry

ADDED = Path(__file__).with_name("added")
FACTORS = {"dc": (32, 32), "video": (2, 4)}  # of encoding, of decoding


@pytest.fixture(autouse=True)
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """The package holds the files of `added/` too, and the registry its tables."""
    before = set(sys.modules)
    tables = tmp_path / "tables"
    tables.mkdir()
    shipped = files("vaelens.weights")
    (tables / "models.toml").write_text(shipped.joinpath("models.toml").read_text("utf-8"), "utf-8")
    texts = [file.read_text("utf-8") for file in (shipped.joinpath("vaes.toml"), ADDED / "tables.toml")]
    (tables / "vaes.toml").write_text("\n".join(texts), "utf-8")
    monkeypatch.setattr("vaelens.weights.registry.files", lambda _: tables)
    monkeypatch.setattr(vaelens.families, "__path__", [*vaelens.families.__path__, str(ADDED)])
    families.cache_clear()
    registry.cache_clear()
    yield
    families.cache_clear()
    registry.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("vaelens.families."):
            del sys.modules[name]


def random_added(name: str) -> VAE:
    spec = registry().space_spec(name)
    assert spec is not None
    with seeded(0):
        return VAE(build_network(spec.config), spec, name)


@pytest.mark.parametrize("name", FACTORS)
def test_saving_and_loading(name: str, tmp_path: Path, rewrite: Callable[..., Path]) -> None:
    vae = random_added(name)
    image = torch.rand(1, 3, 40, 24)
    file = vae.save(tmp_path / "a.safetensors")
    bare = rewrite(file, tmp_path / "bare.safetensors", metadata={})
    for path, space in ((file, None), (bare, name), (vae.save(tmp_path / "folder"), None)):
        loaded = vl.load(path, device="cpu", space=space)
        assert (loaded.spec, loaded.fingerprint) == (vae.spec, vae.fingerprint)
        assert same_bytes(dict(loaded.network.state_dict()), dict(vae.network.state_dict()))
        assert torch.equal(loaded.reconstruct(image), vae.reconstruct(image))
        assert vl.load(loaded.save(tmp_path / "b.safetensors"), device="cpu").spec == vae.spec
    shapes = {n: tuple(t.shape) for n, t in vae.network.state_dict().items()}
    assert recognise(shapes) == [("", vae.spec.family, vae.spec.family.layouts[0])]
    narrow = vae.to(torch.bfloat16)
    assert (narrow.dtype, vae.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("name", FACTORS)
def test_sizes_and_latents(name: str) -> None:
    """Against the class of diffusers itself; a decoder that enlarges gives its own size, averaged down to a given."""
    vae, (factor, decoded_factor) = random_added(name), FACTORS[name]
    network, family = vae.network, vae.spec.family
    assert type(network) is getattr(diffusers, family.diffusers_classes[0])
    image = torch.rand(2, 3, 2 * factor, 3 * factor)
    latents = vae.encode(image).mode()
    assert latents.shape == (2, 4, 2, 3)
    pixels = image * 2 - 1
    with torch.no_grad():
        if name == "dc":
            expected = network.encode(pixels).latent * 0.41407
        else:
            mean, std = (torch.tensor(network.config[f"latents_{f}"])[:, None, None] for f in ("mean", "std"))
            expected = (network.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0] - mean) / std
    torch.testing.assert_close(latents, expected)
    z = torch.randn(2, 4, 2, 3)
    torch.testing.assert_close(family.to_z(family.to_latents(z, vae.spec, network), vae.spec, network), z)
    decoded = vae.decode(latents)
    assert decoded.shape == (2, 3, 2 * decoded_factor, 3 * decoded_factor)
    enlarged = decoded_factor // factor
    assert torch.equal(vae.reconstruct(image), torch.nn.functional.avg_pool2d(decoded, enlarged))


@pytest.mark.parametrize("name", FACTORS)
def test_as_diffusers_has_the_whole_config_and_the_networks_parameters(name: str, tmp_path: Path) -> None:
    """The network itself is built without the fields that say how pipelines use it."""
    spec = random_added(name).spec
    if "scaling_factor" in spec.family.json_scales:
        spec = replace(spec, scaling_factor=0.5, latent_space=None)
    vae = VAE(build_network(spec.config), spec, name)
    folder = vae.save(tmp_path / name)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 96, "unknown": [1]}))
    vae = vl.load(folder, device="cpu")
    model = vl.as_diffusers(vae)
    expected = type(model).from_pretrained(folder)
    assert type(model) is type(vae.network)
    differing = {f for f in {*model.config, *expected.config} if model.config.get(f) != expected.config.get(f)}
    assert differing <= {"_name_or_path", "_use_default_values"}
    assert model.config.unknown == [1]
    again = vl.load(vae.save(tmp_path / "a.safetensors"), device="cpu").save(tmp_path / "again")
    assert json.loads((again / "config.json").read_text()) == json.loads(config.read_text())
    own = dict(vae.network.named_parameters())
    assert all(parameter is own[name] for name, parameter in model.named_parameters())
