"""Reading VAEs strictly: layouts, prefixes, old names, and everything that can be wrong with a file."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.vaes import TINY, random_vae, same_bytes
from vaelens.errors import BadInputError, CheckFailedError, UnsafeFileError, UsageError
from vaelens.families.kl import PROJECTIONS, to_ldm
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.vae import VAE
from vaelens.weights.reading import read_vae
from vaelens.weights.registry import PublishedFile, registry

Rewrite = Callable[..., Path]


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


def test_what_training_left_in_a_file_is_dropped_and_said(vae: VAE, tmp_path: Path, rewrite: Rewrite) -> None:
    extra = {"loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1), "model_ema.num_updates": torch.zeros(1)}
    file = rewrite(vae.save(tmp_path / "a.safetensors", layout="ldm"), tmp_path / "b.safetensors", lambda t: t | extra)
    assert sorted(read_vae(file).dropped) == sorted(extra)


def test_diffusers_names_of_2022_are_understood(vae: VAE, vae_file: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    def old(name: str) -> str:
        for new, former in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            name = name.replace(new, former)
        return name

    file = rewrite(vae_file, tmp_path / "old.safetensors", lambda t: {old(n): v for n, v in t.items()})
    assert "encoder.mid_block.attentions.0.query.weight" in load_file(file)
    assert same_bytes(read_vae(file).tensors, dict(vae.network.state_dict()))

    def as_convolutions(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {old(n): t[:, :, None, None] if n.endswith(PROJECTIONS) else t for n, t in tensors.items()}

    file = rewrite(vae_file, tmp_path / "older.safetensors", as_convolutions)
    assert same_bytes(read_vae(file).tensors, dict(vae.network.state_dict()))


def test_two_names_for_one_tensor_are_refused(vae_file: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    new, old = (f"encoder.mid_block.attentions.0.{n}.weight" for n in ("to_q", "query"))
    file = rewrite(vae_file, tmp_path / "twice.safetensors", lambda t: t | {old: t[new] + 1})
    with pytest.raises(BadInputError, match="two names for one tensor"):
        read_vae(file)


def test_a_vae_may_lie_in_several_files(vae: VAE, tmp_path: Path, rewrite: Rewrite) -> None:
    """The first one says what it is; decoders may so share an encoder's file."""
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


def test_two_vaes_in_one_file_are_refused(vae_file: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    def double(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return tensors | {f"first_stage_model.{n}": t + 1 for n, t in tensors.items()}

    with pytest.raises(BadInputError, match=r"more than one VAE, under 'first_stage_model\.' and no prefix"):
        read_vae(rewrite(vae_file, tmp_path / "two.safetensors", double))


@pytest.mark.parametrize(
    "name",
    ["encoder.down_blocks.0.resnets.3000.conv1.weight", "encoder.down_blocks.99.resnets.0.conv1.weight",
     f"decoder.up_blocks.{'9' * 5000}.x"],
)  # fmt: skip
def test_absurd_indices_cost_nothing(vae_file: Path, tmp_path: Path, rewrite: Rewrite, name: str) -> None:
    import time

    file = rewrite(vae_file, tmp_path / "odd.safetensors", lambda t: t | {name: torch.zeros(1)})
    began = time.process_time()
    with pytest.raises(BadInputError, match="1 unexpected"):
        read_vae(file)
    assert time.process_time() - began < 5  # building what the index claims would take minutes


def test_empty_tensors_are_refused(vae_file: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    file = rewrite(
        vae_file, tmp_path / "empty.safetensors", lambda t: t | {"quant_conv.weight": torch.zeros(8, 0, 1, 1)}
    )
    with pytest.raises(BadInputError, match=r"quant_conv\.weight is empty"):
        read_vae(file)


def test_deleting_any_one_key_is_caught(vae_file: Path, tmp_path: Path) -> None:
    tensors, metadata = load_file(vae_file), read_vae(vae_file).metadata
    assert len(tensors) == 248
    for name in tensors:
        file = tmp_path / "less.safetensors"
        save_file({n: t for n, t in tensors.items() if n != name}, file, metadata)
        with pytest.raises(BadInputError, match=name.replace(".", r"\.")):
            read_vae(file)


def test_one_nan_or_infinity_anywhere_is_caught(vae_file: Path, tmp_path: Path) -> None:
    tensors, metadata = load_file(vae_file), read_vae(vae_file).metadata
    for number, (name, tensor) in enumerate(tensors.items()):
        spoilt = tensor.clone()
        spoilt.view(-1)[number * 7919 % spoilt.numel()] = float("nan") if number % 2 else float("-inf")
        file = tmp_path / "spoilt.safetensors"
        save_file({**tensors, name: spoilt}, file, metadata)
        with pytest.raises(CheckFailedError, match=name.replace(".", r"\.")):
            read_vae(file)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t | {"encoder.extra.weight": torch.zeros(1)}, r"1 unexpected \(encoder\.extra\.weight\)"),
        (lambda t: t | {"quant_conv.bias": torch.zeros(9)}, r"quant_conv\.bias \[9\] instead of \[8\]"),
        (lambda t: t | {"quant_conv.bias": torch.zeros(8, dtype=torch.int32)}, "stored as I32"),
        (lambda t: {"lora.up": torch.zeros(1)}, "holds no VAE"),
    ],
)
def test_unexpected_misshapen_and_foreign_tensors_are_refused(
    vae_file: Path, tmp_path: Path, rewrite: Rewrite, edit: Callable[..., object], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        read_vae(rewrite(vae_file, tmp_path / "b.safetensors", edit))


def test_a_folder_with_only_pickled_weights_is_refused(vae: VAE, tmp_path: Path) -> None:
    folder = vae.save(tmp_path / "vae")
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match=r"diffusion_pytorch_model\.bin"):
        read_vae(folder)


def test_a_diffusers_folder_and_a_pipeline_around_it(vae: VAE, tmp_path: Path) -> None:
    folder = vae.save(tmp_path / "pipeline" / "vae")
    for path in (folder, folder.parent):
        read = read_vae(path)
        assert read.spec == vae.spec
        assert read.source_of["scaling_factor"] == "config.json"


def test_diffusers_loads_what_we_save(vae: VAE, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL as DiffusersKL

    theirs = DiffusersKL.from_pretrained(vae.save(tmp_path / "vae"))
    assert same_bytes(dict(theirs.state_dict()), dict(vae.network.state_dict()))
    assert theirs.config.scaling_factor == vae.spec.scaling_factor


def plain(file: Path, rewrite: Rewrite) -> Path:
    """The file without our metadata, as others publish theirs."""
    return rewrite(file, file.with_name("plain.safetensors"), metadata={"format": "pt"})


def test_what_shapes_do_not_tell_is_never_guessed(vae_file: Path, rewrite: Rewrite) -> None:
    with pytest.raises(BadInputError, match=r"doesn't say norm_eps, norm_num_groups, .*scaling_factor"):
        read_vae(plain(vae_file, rewrite))


def test_full_size_shapes_name_the_spaces_that_fit(tmp_path: Path) -> None:
    """Both SD 1.x and SDXL have these shapes; only the caller can say which."""
    big = random_vae(registry().spec("kl-f8").config)
    big.network.half()
    tensors = {n: t.contiguous() for n, t in to_ldm(big.network.state_dict()).items()}
    file = tmp_path / "someones.safetensors"
    save_file(tensors, file)
    with pytest.raises(BadInputError, match="its shapes fit sd1 and sdxl"):
        read_vae(file)
    assert read_vae(file, space="sdxl").spec == registry().space_spec("sdxl")
    with pytest.raises(BadInputError, match=r"latent_channels is 4 by the tensors' shapes, but 16 by the space named"):
        read_vae(file, space="flux1")
    with pytest.raises(UsageError, match="no latent space is called 'sd2'"):
        read_vae(file, space="sd2")
    # A whole checkpoint says it by its other tensors.
    checkpoint = tmp_path / "model.safetensors"
    others = {"conditioner.embedders.0.x": torch.zeros(1), "model.diffusion_model.x": torch.zeros(1)}
    save_file({f"first_stage_model.{n}": t for n, t in tensors.items()} | others, checkpoint)
    with pytest.raises(BadInputError, match=r"sd1 by the space named \(sd1\).* sdxl by the checkpoint's other tensors"):
        read_vae(checkpoint, space="sd1")
    read = read_vae(checkpoint)
    assert read.spec.latent_space == "sdxl"
    assert read.source_of["scaling_factor"] == "the checkpoint's other tensors (sdxl)"


def test_a_published_file_is_known_by_its_content(
    vae_file: Path, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaelens.files import sha256_file

    file = plain(vae_file, rewrite)
    known = registry().model_copy(
        update={
            "configs": {**registry().configs, "sd": {**registry().configs["sd"], "block_out_channels": [4, 8, 16, 16],
                                                     "norm_num_groups": 4}},
            "vaes": {**registry().vaes, "ft-mse": registry().vaes["ft-mse"].model_copy(
                update={"other_files": (PublishedFile(name="x", sha256=sha256_file(file)),)})},
        }
    )  # fmt: skip
    for module in ("reading", "spec_sources"):
        monkeypatch.setattr(f"vaelens.weights.{module}.registry", lambda: known)
    read = read_vae(file)
    assert (read.known_as, read.spec.latent_space) == ("ft-mse", "sd1")
    assert "sha256 is ft-mse's" in read.source_of["scaling_factor"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("latent_channels", 16, "latent_channels is 4 by the tensors' shapes, but 16 by config.json"),
        ("scaling_factor", 0.13025, "scaling_factor is 0.13025 by config.json, but 0.18215 by the file's metadata"),
        ("norm_num_groups", 2, "norm_num_groups is 2 by config.json, but 4 by the file's metadata"),
        ("act_fn", "relu", "asks for act_fn = 'relu'"),
        ("latents_mean", [0.0], r"asks for latents_mean = \[0.0\]"),
        ("_class_name", "AutoencoderDC", "describes AutoencoderDC"),
        ("_class_name", "AutoencoderTiny", "asks for act_fn = 'silu'"),
        ("norm_num_groups", "4", "norm_num_groups is '4' by config.json: Input should be a valid integer"),
        ("norm_num_groups", [4], "Input should be a valid integer"),
        ("norm_num_groups", True, "Input should be a valid integer"),
        ("block_out_channels", 4, "Input should be a valid tuple"),
        ("scaling_factor", "0.18215", "Input should be a valid number"),
        ("scaling_factor", 0, "greater than 0"),
        ("scaling_factor", float("nan"), "finite number"),
        ("down_block_types", None, "asks for down_block_types = None"),
        ("down_block_types", [["DownEncoderBlock2D"]], "asks for down_block_types"),
    ],
)
def test_contradictions_are_errors(vae: VAE, tmp_path: Path, field: str, value: object, message: str) -> None:
    folder = vae.save(tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(BadInputError, match=message):
        read_vae(folder)


def test_a_config_json_without_scale_means_diffusers_default(vae: VAE, tmp_path: Path, rewrite: Rewrite) -> None:
    folder = vae.save(tmp_path / "vae")
    weights = folder / "diffusion_pytorch_model.safetensors"
    rewrite(weights, folder / "x", metadata={"format": "pt"}).replace(weights)
    config = json.loads((folder / "config.json").read_text())
    del config["scaling_factor"], config["shift_factor"]
    (folder / "config.json").write_text(json.dumps(config))
    read = read_vae(folder)
    assert (read.spec.scaling_factor, read.source_of["scaling_factor"]) == (0.18215, "diffusers' default")
    assert read_vae(folder, space=None).spec.latent_space == "sd1"


def test_a_tiny_folder_of_another_depth_or_kind_is_refused(vae: VAE, tmp_path: Path) -> None:
    tiny, full = random_vae(TINY).save(tmp_path / "tiny"), vae.save(tmp_path / "full")
    described = json.loads((tiny / "config.json").read_text())
    for change, message in (
        ({"num_encoder_blocks": [1, 2, 3, 3]}, "num_encoder_blocks is|don't fit the network"),
        ({"scaling_factor": 2.0}, "scaling_factor is 2.0 by config.json"),
        ({"encoder_block_out_channels": [8, 8, 16, 8]}, r"asks for encoder_block_out_channels"),
        ({"decoder_block_out_channels": None}, r"asks for decoder_block_out_channels"),
    ):
        (tiny / "config.json").write_text(json.dumps(described | change))
        with pytest.raises(BadInputError, match=message):
            read_vae(tiny)
    (full / "config.json").write_text(json.dumps(described))
    with pytest.raises(BadInputError, match=r"config\.json describes a tiny .*, the tensors are those of a full VAE"):
        read_vae(full)


def test_a_sharded_folder_names_what_it_holds(vae: VAE, tmp_path: Path) -> None:
    folder = vae.save(tmp_path / "vae")
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.rename(folder / "diffusion_pytorch_model-00001-of-00002.safetensors")
    with pytest.raises(BadInputError, match=r"holds no .*, but diffusion_pytorch_model-00001"):
        read_vae(folder)


def test_the_fingerprint_covers_the_quant_convs(vae: VAE) -> None:
    before = vae.fingerprint
    with torch.no_grad():
        vae.network.quant_conv.bias[0] += 1  # type: ignore[union-attr,index]
    after = vae.fingerprint
    assert (before.encoder.stored == after.encoder.stored, before.decoder == after.decoder) == (False, True)
    with torch.no_grad():
        vae.network.post_quant_conv.bias[0] += 1  # type: ignore[union-attr,index]
    assert vae.fingerprint.decoder.stored != after.decoder.stored


def test_damaged_metadata_is_an_error(vae_file: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    whole = json.loads(read_vae(vae_file).metadata["vaelens"])
    cases = [
        ("{", "damaged"),
        ('{"version": 99}', "version 99"),
        ('{"version": 1}', "damaged"),
        ("[" * 100_000, "damaged"),
        *(
            (json.dumps(whole | change), message)
            for change, message in (
                ({"pixel_range": [1, 1]}, "the lower bound must lie below"),
                ({"pixel_range": None}, "pixel_range is None by the file's metadata"),
                ({"latent_space": {"a": 1}}, "valid string"),
                ({"kind": "tiny"}, "describes a tiny autoencoder"),
                ({"latent_space": "sdxl"}, "the latent space is sdxl by the file's metadata, but .* those of sd1"),
                ({"scaling_factor": 0.13025}, "the latent space is sd1 by the file's metadata, but .* those of sdxl"),
            )
        ),
    ]
    for text, message in cases:
        with pytest.raises(BadInputError, match=message):
            read_vae(rewrite(vae_file, tmp_path / "b.safetensors", metadata={"vaelens": text}))


@pytest.mark.parametrize("config", [TINY, TinyAutoencoderConfig(latent_channels=32, width=8, mid_block_pool=True)])
def test_tiny_autoencoders_read_in_diffusers_names_and_in_halves(
    tmp_path: Path, rewrite: Rewrite, config: TinyAutoencoderConfig
) -> None:
    tiny = random_vae(config, space="sdxl")
    saved = tiny.save(tmp_path / "tiny.safetensors")
    whole = rewrite(saved, tmp_path / "whole.safetensors", metadata={})
    assert same_bytes(read_vae(whole, space="sdxl").tensors, dict(tiny.network.state_dict()))

    def half(side: str, offset: int) -> Callable[..., dict[str, torch.Tensor]]:
        def edit(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
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


def test_deleting_any_one_key_of_a_tiny_autoencoder_is_caught(tmp_path: Path) -> None:
    tensors = load_file(random_vae(TINY).save(tmp_path / "tiny.safetensors"))
    for name in tensors:
        file = tmp_path / "less.safetensors"
        save_file({n: t for n, t in tensors.items() if n != name}, file)
        with pytest.raises(BadInputError, match=name.replace(".", r"\.")):
            read_vae(file)


def test_fingerprints_know_content_halves_and_casts(tmp_path: Path) -> None:
    vae = random_vae()
    stored = read_vae(vae.save(tmp_path / "a.safetensors")).fingerprint
    assert read_vae(vae.save(tmp_path / "b.safetensors", layout="ldm")).fingerprint == stored == vae.fingerprint
    half = random_vae()
    half.network.half()
    cast = read_vae(half.save(tmp_path / "c.safetensors")).fingerprint
    assert cast.decoder.stored == stored.decoder.fp16 != stored.decoder.stored
    other = random_vae()
    with torch.no_grad():
        other.network.decoder.conv_out.bias.view(-1)[0] += 1e-3
    changed = read_vae(other.save(tmp_path / "d.safetensors")).fingerprint
    assert changed.encoder == stored.encoder
    assert changed.decoder.stored != stored.decoder.stored


def test_fingerprint_by_hand() -> None:
    """The definition, spelt out for one tensor a half."""
    import hashlib

    from vaelens.families.kl import FAMILY
    from vaelens.weights.fingerprint import fingerprint

    tensors = {"decoder.a": torch.tensor([1.0, 2.0]), "encoder.b": torch.tensor([[3.0]])}
    expected = hashlib.sha256(b"decoder.a|[2]|float32|" + struct.pack("<2f", 1, 2)).hexdigest()
    assert fingerprint(tensors, FAMILY).decoder.stored == expected
