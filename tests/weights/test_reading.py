"""Reading VAEs strictly: layouts, prefixes, old names, folders, and every kind of wrong tensor."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL
from safetensors.torch import load_file, save_file

from support.checkpoints import narrow_networks, space_vae
from support.vaes import NARROW, TINY, random_vae, same_bytes, tiny_halves
from vaelens.errors import BadInputError, CheckFailedError
from vaelens.families.kl import PROJECTIONS
from vaelens.families.spec import NetworkConfig
from vaelens.files import sha256_file
from vaelens.identification.identifying import identify
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.vae import VAE
from vaelens.weights.known_files import KnownFile
from vaelens.weights.reading import read_vae
from vaelens.weights.registry import registry
from vaelens.weights.spec_sources import BY_SHAPES

Rewrite = Callable[..., Path]
State = dict[str, torch.Tensor]
SHALLOW = replace(NARROW, layers_per_block=1)
NEW, OLD = (f"encoder.mid_block.attentions.0.{name}.weight" for name in ("to_q", "query"))


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_each_layout_reads_under_each_prefix(
    vae: VAE, tmp_path: Path, rewrite: Rewrite, layout: str, prefix: str
) -> None:
    saved = vae.save(tmp_path / "a.safetensors", layout=layout)  # type: ignore[arg-type]
    others = {"model.diffusion_model.x": torch.zeros(2)} if prefix else {}
    file = rewrite(saved, tmp_path / "b.safetensors", lambda t: {prefix + n: v for n, v in t.items()} | others)
    read = read_vae(file)
    assert same_bytes(read.tensors, dict(vae.network.state_dict()))
    assert (read.layout, read.prefix, read.spec) == (layout, prefix, vae.spec)


def test_leftovers_of_training_are_dropped_and_listed(vae: VAE, tmp_path: Path, rewrite: Rewrite) -> None:
    extra = {"loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1), "model_ema.num_updates": torch.zeros(1)}
    file = rewrite(vae.save(tmp_path / "a.safetensors", layout="ldm"), tmp_path / "b.safetensors", lambda t: t | extra)
    assert sorted(read_vae(file).dropped) == sorted(extra)


def test_diffusers_names_of_2022_are_read(vae: VAE, vae_file: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    def old(name: str) -> str:
        for new, former in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            name = name.replace(new, former)
        return name

    file = rewrite(vae_file, tmp_path / "old.safetensors", lambda t: {old(n): v for n, v in t.items()})
    assert "encoder.mid_block.attentions.0.query.weight" in load_file(file)
    assert same_bytes(read_vae(file).tensors, dict(vae.network.state_dict()))

    def as_convolutions(tensors: State) -> State:
        return {old(n): t[:, :, None, None] if n.endswith(PROJECTIONS) else t for n, t in tensors.items()}

    file = rewrite(vae_file, tmp_path / "older.safetensors", as_convolutions)
    assert same_bytes(read_vae(file).tensors, dict(vae.network.state_dict()))


def test_a_vae_may_be_in_several_files(vae: VAE, tmp_path: Path, rewrite: Rewrite) -> None:
    """The first one has the spec, so decoders may share an encoder's file."""
    whole = vae.save(tmp_path / "whole.safetensors", notes={"command": "mine"})
    of_encoder = ("encoder.", "quant_conv.")
    encoder = rewrite(
        whole, tmp_path / "a.safetensors", lambda t: {n: v for n, v in t.items() if n.startswith(of_encoder)}
    )
    decoder = rewrite(
        whole, tmp_path / "b.safetensors", lambda t: {n: v for n, v in t.items() if not n.startswith(of_encoder)}
    )
    read = read_vae(decoder, other_files=[encoder])
    assert same_bytes(read.tensors, dict(vae.network.state_dict()))
    assert (read.files, read.spec, read.metadata["command"]) == ((decoder, encoder), vae.spec, "mine")
    assert read.fingerprint == read_vae(whole).fingerprint
    with pytest.raises(BadInputError, match="encoder"):
        read_vae(decoder)
    spec = json.loads(read.metadata["vaelens"])
    other = rewrite(
        encoder, tmp_path / "c.safetensors", metadata={"vaelens": json.dumps(spec | {"scaling_factor": 2.0})}
    )
    with pytest.raises(BadInputError, match="scaling_factor"):
        read_vae(decoder, other_files=[other])
    with pytest.raises(BadInputError, match=r"b\.safetensors and .*whole\.safetensors both hold decoder\."):
        read_vae(decoder, other_files=[whole])


@pytest.mark.parametrize(
    "name",
    ["encoder.down_blocks.0.resnets.3000.conv1.weight", "encoder.down_blocks.99.resnets.0.conv1.weight",
     f"decoder.up_blocks.{'9' * 5000}.x"],
)  # fmt: skip
def test_absurd_indices_are_refused_at_once(vae_file: Path, tmp_path: Path, rewrite: Rewrite, name: str) -> None:
    file = rewrite(vae_file, tmp_path / "odd.safetensors", lambda t: t | {name: torch.zeros(1)})
    began = time.process_time()
    with pytest.raises(BadInputError, match="1 unexpected"):
        read_vae(file)
    assert time.process_time() - began < 5  # building what the index claims would take minutes


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t | {"encoder.extra.weight": torch.zeros(1)}, r"1 unexpected \(encoder\.extra\.weight\)"),
        (lambda t: t | {"encoder.layers.0.weight": torch.zeros(1)}, r"1 unexpected \(encoder\.layers\.0\.weight\)"),
        (lambda t: t | {"quant_conv.bias": torch.zeros(9)}, r"quant_conv\.bias \[9\] instead of \[8\]"),
        (lambda t: t | {"quant_conv.bias": torch.zeros(8, dtype=torch.int32)}, "stored as I32"),
        (lambda t: t | {"quant_conv.weight": torch.zeros(8, 0, 1, 1)}, r"quant_conv\.weight is empty"),
        (lambda t: {"some.thing": torch.zeros(1)}, "holds no VAE that vaelens knows among its 1 tensor .some.thing"),
        (lambda t: t | {OLD: t[NEW] + 1}, "two names for one tensor"),
        (
            lambda t: t | {f"first_stage_model.{n}": v + 1 for n, v in t.items()},
            r"more than one VAE, under 'first_stage_model\.' and no prefix",
        ),
    ],
)
def test_wrong_tensors_are_refused(
    vae_file: Path, tmp_path: Path, rewrite: Rewrite, edit: Callable[[State], State], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        read_vae(rewrite(vae_file, tmp_path / "b.safetensors", edit))


@pytest.mark.parametrize(("config", "count"), [pytest.param(NARROW, 248, marks=pytest.mark.slow), (TINY, 134)])
def test_deleting_any_one_key_is_caught(tmp_path: Path, config: NetworkConfig, count: int) -> None:
    saved, file = random_vae(config).save(tmp_path / "saved.safetensors"), tmp_path / "less.safetensors"
    tensors, metadata = load_file(saved), read_vae(saved).metadata
    assert len(tensors) == count
    for name in tensors:
        save_file({n: t for n, t in tensors.items() if n != name}, file, metadata)
        with pytest.raises(BadInputError, match=name.replace(".", r"\.")):
            read_vae(file)


def test_one_nan_or_infinity_anywhere_is_caught(tmp_path: Path) -> None:
    saved = random_vae(SHALLOW).save(tmp_path / "saved.safetensors")
    tensors, metadata = load_file(saved), read_vae(saved).metadata
    for number, (name, tensor) in enumerate(tensors.items()):
        spoilt = tensor.clone()
        spoilt.view(-1)[number * 7919 % spoilt.numel()] = float("nan") if number % 2 else float("-inf")
        file = tmp_path / "spoilt.safetensors"
        save_file({**tensors, name: spoilt}, file, metadata)
        with pytest.raises(CheckFailedError, match=name.replace(".", r"\.")):
            read_vae(file)


def test_a_folder_with_only_pickled_weights_opens(vae: VAE, tmp_path: Path) -> None:
    folder = vae.save(tmp_path / "vae")
    plain = folder / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(plain), folder / "diffusion_pytorch_model.bin")
    torch.save({}, folder / "optimizer.bin")
    assert read_vae(folder).files == (plain,)
    plain.unlink()
    read = read_vae(folder)
    assert read.files == (folder / "diffusion_pytorch_model.bin",)
    assert same_bytes(read.tensors, dict(vae.network.state_dict()))
    assert read.spec == vae.spec


def test_a_diffusers_folder_and_a_pipeline_around_it(vae: VAE, tmp_path: Path) -> None:
    folder = vae.save(tmp_path / "pipeline" / "vae")
    for path in (folder, folder.parent):
        read = read_vae(path)
        assert read.spec == vae.spec
        assert read.source_of["scaling_factor"] == "config.json"


def test_diffusers_loads_what_we_save(vae: VAE, tmp_path: Path) -> None:
    theirs = DiffusersKL.from_pretrained(vae.save(tmp_path / "vae"))
    assert same_bytes(dict(theirs.state_dict()), dict(vae.network.state_dict()))
    assert theirs.config.scaling_factor == vae.spec.scaling_factor


def test_shards_without_their_index_say_what_is_missing(vae: VAE, tmp_path: Path) -> None:
    folder = vae.save(tmp_path / "vae")
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.rename(folder / "diffusion_pytorch_model-00001-of-00002.safetensors")
    with pytest.raises(BadInputError, match=r"holds parts of a VAE \(diffusion_pytorch_model-00001"):
        read_vae(folder)


@pytest.mark.parametrize(("first", "second"), [("module.", "module."), ("vae.", "ema._orig_mod."), ("", "vae.")])
def test_halves_are_read_in_wrappers_and_under_prefixes(
    tmp_path: Path, rewrite: Rewrite, first: str, second: str
) -> None:
    tiny = random_vae(TINY, space="sdxl")
    saved = tiny.save(tmp_path / "tiny.safetensors")

    def half(side: str, offset: int, before: str) -> Callable[..., State]:
        def edit(tensors: State) -> State:
            parts = {n.split(".", 2)[2]: t for n, t in tensors.items() if n.startswith(side)}
            return {f"{before}{int(n.split('.')[0]) + offset}.{n.split('.', 1)[1]}": t for n, t in parts.items()}

        return edit

    encoder = rewrite(saved, tmp_path / "tae_encoder.safetensors", half("encoder", 0, first), metadata={})
    decoder = rewrite(saved, tmp_path / "tae_decoder.safetensors", half("decoder", 1, second), metadata={})
    for given in (encoder, decoder):
        read = read_vae(given, space="sdxl")
        assert same_bytes(read.tensors, dict(tiny.network.state_dict()))
        assert read.prefix == first
    rewrite(saved, decoder, half("encoder", 0, second), metadata={})
    with pytest.raises(BadInputError, match=r"tae_decoder.*, beside .*, holds another encoder, not the decoder"):
        read_vae(encoder, space="sdxl")


@pytest.mark.parametrize("config", [TINY, TinyAutoencoderConfig(latent_channels=32, width=8, mid_block_pool=True)])
def test_tiny_autoencoders_read_in_diffusers_names_and_in_halves(
    tmp_path: Path, rewrite: Rewrite, config: TinyAutoencoderConfig
) -> None:
    tiny = random_vae(config, space="sdxl")
    saved = tiny.save(tmp_path / "tiny.safetensors")
    whole = rewrite(saved, tmp_path / "whole.safetensors", metadata={})
    assert same_bytes(read_vae(whole, space="sdxl").tensors, dict(tiny.network.state_dict()))

    def half(side: str, offset: int) -> Callable[..., State]:
        def edit(tensors: State) -> State:
            parts = {
                n.split(".", 3)[2:][0] + "." + n.split(".", 3)[3]: t for n, t in tensors.items() if n.startswith(side)
            }
            return {f"{int(n.split('.', 1)[0]) + offset}.{n.split('.', 1)[1]}": t for n, t in parts.items()}

        return edit

    encoder = rewrite(saved, tmp_path / "tae_encoder.safetensors", half("encoder", 0), metadata={})
    with pytest.raises(BadInputError, match=r"tae_decoder\.safetensors isn't beside it"):
        read_vae(encoder)
    decoder = rewrite(saved, tmp_path / "tae_decoder.safetensors", half("decoder", 1), metadata={})
    for given in (encoder, decoder):
        read = read_vae(given, space="sdxl")
        assert same_bytes(read.tensors, dict(tiny.network.state_dict()))
        assert read.spec == tiny.spec
        assert len(read.files) == 2
    rewrite(saved, decoder, lambda t: {n: v for n, v in t.items() if n.startswith("decoder.")}, metadata={})
    with pytest.raises(BadInputError, match=r"tae_decoder\.safetensors, beside .*tae_encoder.* layout diffusers"):
        read_vae(encoder, space="sdxl")


@pytest.mark.parametrize(("config", "space"), [("taef2", "flux2"), ("taesd", None)])
def test_shapes_of_one_latent_space_tell_it_as_identify_does(config: str, space: str | None, tmp_path: Path) -> None:
    halves = tiny_halves(random_vae(registry().network_config(config), space=None), tmp_path)
    read = read_vae(halves[0])
    assert read.spec.latent_space == space
    assert read.source_of.get("latent_space") == (BY_SHAPES if space else None)
    (found,) = identify(halves[0])
    assert found.latent_space.name == space


def test_a_known_file_that_is_not_listed_has_its_latent_space_by_its_sha256(
    tmp_path: Path, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    with narrow_networks():
        vae = space_vae()
        bare = rewrite(vae.save(tmp_path / "vae.safetensors"), tmp_path / "bare.safetensors", metadata={})
        with pytest.raises(BadInputError, match="--space sd1"):
            read_vae(bare)
        known = KnownFile("animevae", "anime VAE", "sd1", False, "a.pt", (), None, sha256_file(bare), 3)
        monkeypatch.setattr("vaelens.weights.spec_sources.files_by_hash", lambda sha: [known] * (sha == known.sha256))
        read = read_vae(bare)
    assert read.spec == vae.spec
    assert read.source_of["scaling_factor"] == "the registry (its sha256 is animevae's)"
    assert read.known_as is None, "it can't be downloaded by that name"


@pytest.mark.parametrize(("held", "lacking"), [("a decoder", "encoder"), ("an encoder", "decoder")])
def test_half_a_vae_is_called_so(held: str, lacking: str, tmp_path: Path) -> None:
    tensors = random_vae(NARROW).tensors()
    kept = {n: t for n, t in tensors.items() if not n.startswith(lacking) and "quant_conv" not in n}
    save_file(kept, tmp_path / "half.safetensors")
    with pytest.raises(BadInputError, match=f"holds {held} only: all tensors of the {lacking}"):
        read_vae(tmp_path / "half.safetensors")


def test_a_folder_of_several_vaes_names_identify(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        random_vae(NARROW).save(tmp_path / name)
    with pytest.raises(BadInputError, match=f"`vaelens identify {tmp_path}` says what each is"):
        read_vae(tmp_path)


def test_a_file_without_permission_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = random_vae(NARROW).save(tmp_path / "vae.safetensors")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(BadInputError, match=r"Permission denied\. Check its permissions"):
        read_vae(file)
