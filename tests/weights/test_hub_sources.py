"""VAEs on the hub, named by ids and by addresses pasted from its site."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL

import vaelens as vl
from support.commands import invoke
from support.standins.hub import HubStandin
from support.vaes import random_vae, same_bytes
from vaelens.download.hub_addresses import parse_hub_address
from vaelens.errors import BadInputError, UsageError
from vaelens.loading import check_source, space_of
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.vae import VAE
from vaelens.weights.hub_sources import hub_vae_name

SMALL = AutoencoderKLConfig(block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1)


def pickled(vae: VAE) -> bytes:
    out = io.BytesIO()
    torch.save(dict(vae.network.state_dict()), out)
    return out.getvalue()


@pytest.fixture
def small() -> VAE:
    return random_vae(SMALL, space=None)


@pytest.fixture
def hub(small: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandin]:
    folder, file = small.save(tmp_path / "vae"), small.save(tmp_path / "best.v2.safetensors")
    weights, config = ((folder / n).read_bytes() for n in ("diffusion_pytorch_model.safetensors", "config.json"))
    with HubStandin() as hub:
        hub.use(monkeypatch, tmp_path / "home")
        for repo, name in {
            "someone/half": "diffusion_pytorch_model.fp16.safetensors",
            "someone/bf16": "diffusion_pytorch_model.bf16.safetensors",
            "someone/sd": "vae/diffusion_pytorch_model.safetensors",
            "someone/parts": "decoders/a/diffusion_pytorch_model.safetensors",
        }.items():
            hub.add(repo, name, weights)
            hub.add(repo, f"{name.rpartition('/')[0]}/config.json".lstrip("/"), config, lfs=False)
        hub.add("someone/single", "best.v2.safetensors", file.read_bytes())
        hub.add("someone/single", "old.ckpt", pickled(small))
        hub.add("someone/pickled", "diffusion_pytorch_model.bin", pickled(small))
        hub.add("someone/pickled", "config.json", config, lfs=False)
        hub.add("someone/two", "a.safetensors", file.read_bytes())
        hub.add("someone/two", "b.safetensors", file.read_bytes())
        yield hub


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("someone/half", "someone/half"),
        ("someone/bf16", "someone/bf16"),
        ("someone/single", "someone/single"),
        ("{}/someone/half", "someone/half"),
        ("{}/someone/half/", "someone/half"),
        ("{}/someone/half/tree/main", "someone/half"),
        ("https://huggingface.co/someone/half/tree/main", "someone/half"),
        ("huggingface.co/someone/half", "someone/half"),
        ("https://hf.co/someone/sd/tree/main/vae?not-for-all-audiences=true#files", "someone/sd"),
        ("{}/someone/sd/blob/main/vae/diffusion_pytorch_model.safetensors", "someone/sd"),
        ("{}/someone/sd/blob/main/vae/config.json", "someone/sd"),
        ("{}/someone/parts/tree/main/decoders/a", "someone/parts/decoders/a"),
        ("{}/someone/single/blob/main/best.v2.safetensors", "someone/single/best.v2"),
        ("{}/someone/single/resolve/main/best.v2.safetensors?download=true", "someone/single/best.v2"),
        ("someone/pickled", "someone/pickled"),
        ("{}/someone/pickled/blob/main/diffusion_pytorch_model.bin", "someone/pickled"),
    ],
)
def test_an_id_or_any_address_pasted_from_the_hubs_site_loads(
    hub: HubStandin, small: VAE, source: str, name: str
) -> None:
    source = source.format(hub.endpoint)
    loaded = vl.load(source, device="cpu")
    assert same_bytes(dict(loaded.network.state_dict()), dict(small.network.state_dict()))
    assert loaded.spec.config == small.spec.config
    assert loaded.name == name
    hub.requests.clear()
    assert vl.load(source, device="cpu", offline=True).name == name
    assert hub.requests == []


def test_a_subfolder_of_a_repository(hub: HubStandin, small: VAE) -> None:
    loaded = vl.load("someone/parts", subfolder="decoders/a", device="cpu")
    assert same_bytes(dict(loaded.network.state_dict()), dict(small.network.state_dict()))
    invoke("inspect", "someone/parts", "--subfolder", "decoders/a")
    with pytest.raises(UsageError, match="Leave out the subfolder"):
        vl.load("tiny-kl-f8", subfolder="vae")


def test_shards_on_the_hub(hub: HubStandin, tmp_path: Path) -> None:
    whole = random_vae()
    theirs = DiffusersKL.from_pretrained(whole.save(tmp_path / "whole"))
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    for file in (tmp_path / "shards").iterdir():
        hub.add("someone/shards", file.name, file.read_bytes())
    for source in (
        "someone/shards",
        f"{hub.endpoint}/someone/shards/blob/main/diffusion_pytorch_model.safetensors.index.json",
    ):
        loaded = vl.load(source, device="cpu")
        assert same_bytes(dict(loaded.network.state_dict()), dict(whole.network.state_dict()))
        assert loaded.name == "someone/shards"


def test_a_space_is_known_without_the_weights(hub: HubStandin, tmp_path: Path) -> None:
    folder = random_vae().save(tmp_path / "sd1")
    hub.add("someone/sd1", "config.json", (folder / "config.json").read_bytes(), lfs=False)
    assert space_of("someone/sd1") == "sd1"
    assert space_of(f"{hub.endpoint}/someone/sd1/tree/main") == "sd1"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("https://example.com/x.safetensors", UsageError, "isn't on the hub, .*Download the file and name it"),
        ("http://civitai.com/models/1", UsageError, "isn't on the hub"),
        ("{}/datasets/someone/faces", UsageError, "not the page of a model on the hub"),
        ("{}/someone", UsageError, "not the page of a model on the hub"),
        ("{}/someone/single/stars/3", UsageError, "isn't the page of a file or folder in someone/single"),
        ("{}/someone/single/blob/main/../../x.safetensors", UsageError, "isn't the page of a file"),
        ("{}/someone/single/blob/main/a%2F..%2F..%2Fx.safetensors", UsageError, "isn't the page of a file"),
        ("{}/someone/single/blob/..%2Fmain/x.safetensors", UsageError, "isn't the page of a file"),
        ("{}/someone/single/blob/main/x%00.safetensors", UsageError, "isn't the page of a file"),
        ("https://[x/owner/name", UsageError, "isn't a web address: Invalid IPv6 URL"),
        ("https://huggingface.co\u2100/a/b", UsageError, "isn't a web address: netloc .*"),
        (
            "someone/two",
            BadInputError,
            "Name one of its files by its page, e.g. {}/someone/two/blob/main/a.safetensors",
        ),
    ],
)
def test_an_address_that_is_no_vaes_says_what_to_name(
    hub: HubStandin, source: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message.format(hub.endpoint)):
        vl.load(source.format(hub.endpoint))
    if error is BadInputError:  # what it says to name
        assert vl.load(f"{hub.endpoint}/someone/two/blob/main/a.safetensors", device="cpu").name == "someone/two/a"


@pytest.mark.parametrize("folder", ["sd-v1.4", "sd-v1.5/vae", "v2.0/decoders"])
def test_a_folder_whose_name_has_a_point_is_part_of_a_vaes_name(folder: str) -> None:
    address = f"https://huggingface.co/a/b/tree/main/{folder}"
    assert hub_vae_name(parse_hub_address(address)) == f"a/b/{folder}"
    for page in ("config.json", "README.md"):
        assert hub_vae_name(parse_hub_address(f"{address}/{page}")) == f"a/b/{folder}"


@pytest.mark.parametrize(
    "page", ["discussions", "discussions/7", "settings", "blob", "tree", "tree/main", "commits/main"]
)
def test_a_page_of_a_repository_is_the_repository_at_main(hub: HubStandin, page: str) -> None:
    assert vl.load(f"{hub.endpoint}/someone/single/{page}", device="cpu").name == "someone/single"


def test_an_address_of_another_revision_is_part_of_the_name(hub: HubStandin) -> None:
    commit = hub.commit("someone/single")
    address = f"{hub.endpoint}/someone/single/blob/{commit}/best.v2.safetensors"
    assert vl.load(address, device="cpu").name == f"someone/single@{commit}/best.v2"
    assert check_source("https://huggingface.co/a/b/tree/refs%2Fpr%2F1/vae")
