"""Files that aren't what their names say: the message says what each really is, and what to do with it."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from support.commands import invoke
from vaelens.errors import BadInputError, VaelensError
from vaelens.images.reading import decode_file
from vaelens.latents import read_latents
from vaelens.loading import load

HTML = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 334643276\n"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99
Written = Callable[[Path], object]


def content(form: str) -> bytes:
    out = io.BytesIO()
    if form in {"torch", "pickle"}:
        state = {"decoder.conv_in.weight": torch.zeros(2)}
        torch.save(state, out) if form == "torch" else pickle.dump({"state_dict": [1, 2]}, out)
    else:
        Image.new("RGB", (16, 16)).save(out, form)
    return out.getvalue()


def zipped(*names: str) -> bytes:
    """A zip archive of these files, of 2000 bytes each."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, bytes(2000))
    return out.getvalue()


def tensors(*names: str, metadata: dict[str, str] | None = None) -> Written:
    return lambda file: save_file({name: torch.zeros(1, 4, 2, 2) for name in names}, file, metadata)


def refused(read: Callable[[Path], object], file: Path, written: bytes | Written, *parts: str) -> None:
    file.write_bytes(written) if isinstance(written, bytes) else written(file)
    with pytest.raises(BadInputError) as error:
        read(file)
    for part in (str(file), *parts):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("written", "is_what", "do_what"),
    [
        (b"", "is empty, not an image", "download it again"),
        (HTML, "is an HTML page", "Download the file itself again"),
        (POINTER, "is a Git LFS pointer", "Run `git lfs pull`"),
        (b'{"error": "Repository not found"}', "is a server's error message", "Download the file itself again"),
        (b"Entry not found", "is a server's error message", "Download the file itself again"),
        (HEIC, "is a HEIC or HEIF image", "Convert it to PNG or JPEG"),
        (HEIC.replace(b"heic", b"msf1"), "is a HEIC or HEIF image", "Convert it to PNG or JPEG"),
        (HEIC.replace(b"heic", b"qt  ").replace(b"mif1", b"isom"), "is a video", "Save a frame"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 99, "is a JPEG XL image", "Convert it to PNG or JPEG"),
        (b"PK\x03\x04" + b"\0" * 99, "is a zip archive, not an image", "Unpack it"),
        (content("torch"), "is a zip archive with a pickled file", "Name an image file"),
        (content("pickle"), "is a pickled file", "Name an image file"),
        (tensors("decoder.weight"), "is a safetensors file, not an image", "--vae"),
        (tensors("latent_tensor", "latent_format_version_0"), "safetensors file of latents", "compare --latents"),
        (tensors("latents", metadata={"vaelens_latents": "{}"}), "safetensors file of latents", "compare --latents"),
        (tensors("samples"), "safetensors file of latents", "compare --latents"),
        (
            b"dear diary",
            "is a text file, not an image",
            "Name an image file. If this was a download",
        ),
        (Path.mkdir, "is a folder, not an image", "Name the image files"),
    ],
)
def test_what_is_not_an_image_is_named_with_a_next_step(
    written: bytes | Written, is_what: str, do_what: str, tmp_path: Path
) -> None:
    refused(decode_file, tmp_path / "photo.png", written, is_what, do_what)


@pytest.mark.parametrize(
    ("written", "is_what", "do_what"),
    [
        (b"", "is empty, not a file of weights", "download it again"),
        (HTML, "is an HTML page", "Download the file itself again"),
        (POINTER, "is a Git LFS pointer", "Run `git lfs pull`"),
        (b'{"error": "Repository not found"}', "is a server's error message", "Download the file itself again"),
        (HEIC, "is a HEIC or HEIF image", "`vaelens reconstruct` takes images"),
        *((content(form), f"is a {form} image", "reconstruct") for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF")),
        (content("WEBP"), "is a WebP image", "reconstruct"),
        (content("AVIF"), "is an AVIF image", "reconstruct"),
        (tensors("latent_tensor", "latent_format_version_0"), "is a file of latents, not a VAE", "compare --latents"),
        (tensors("latents", metadata={"vaelens_latents": "{}"}), "is a file of latents", "compare --latents"),
        (tensors("lora_unet_down_blocks_0_attentions_0.lora_up.weight"), "is a LoRA without a VAE", "a VAE"),
        (tensors("unet.down_blocks.0.attn.lora_A.weight"), "is a LoRA without a VAE", "Name the file of a VAE"),
        (tensors("text_model.lora_linear_layer.lora.up.weight"), "is a LoRA", "Name the file of a VAE"),
        (tensors("control_model.input_hint_block.0.bias"), "is a ControlNet without", "Name the file of a VAE"),
        (tensors("controlnet_cond_embedding.conv_in.bias", "down_blocks.0.resnets.0.x"), "a ControlNet", "a VAE"),
        (tensors("text_model.encoder.layers.0.mlp.fc1.bias"), "is a text encoder without", "Name the file of a VAE"),
        (tensors("encoder.block.0.layer.0.SelfAttention.k.weight"), "is a text encoder", "Name the file of a VAE"),
        (tensors("down_blocks.0.resnets.0.conv1.bias", "time_embedding.x"), "a diffusion model's denoiser", "a VAE"),
        (tensors("double_blocks.0.img_mod.lin.bias"), "a diffusion model's denoiser", "Name the file of a VAE"),
        (
            tensors("model.diffusion_model.out.0.bias", "cond_stage_model.x.weight"),
            "is a diffusion model's denoiser (UNet or transformer) and a text encoder without a VAE",
            "Name the file of a VAE",
        ),
        (tensors("emb_params"), "is a textual inversion", "Name the file of a VAE"),
        (tensors("what.ever"), "holds no VAE that vaelens knows among its 1 tensor (what.ever", "Name the file"),
        (
            b"dear diary",
            "a text file, not a file of weights",
            "Name the file of weights itself. If this was a download",
        ),
    ],
)
def test_what_is_not_a_vae_is_named_with_a_next_step(
    written: bytes | Written, is_what: str, do_what: str, tmp_path: Path
) -> None:
    refused(load, tmp_path / "vae.safetensors", written, is_what, do_what)


@pytest.mark.parametrize(
    ("written", "is_what"),
    [
        (content("torch"), "holds no VAE that vaelens knows among its 1 tensor"),
        (content("pickle"), "holds no tensors of PyTorch"),
        (zipped("archive/data/0", "archive/data.pkl"), "isn't a file of weights that vaelens reads"),
    ],
)
def test_renamed_pickled_files_are_read_by_content(written: bytes, is_what: str, tmp_path: Path) -> None:
    refused(load, tmp_path / "vae.safetensors", written, is_what)


def test_an_archive_without_a_pickled_file_is_bad_input_with_a_next_step(tmp_path: Path) -> None:
    """It runs no code, so it isn't unsafe; `inspect` and `load` say what it is."""
    file = tmp_path / "vae.safetensors"
    for written in (zipped("vae/config.json", "vae/model.safetensors"), b"PK\x03\x04" + b"\0" * 99):
        file.write_bytes(written)
        with pytest.raises(BadInputError, match=r"isn't a file of weights that vaelens reads: it is.* zip archive"):
            load(file)
        assert "code" not in invoke("inspect", file, code=3).stderr


def test_a_lora_given_as_latents_is_named(tmp_path: Path) -> None:
    save_file({"a.lora_up.weight": torch.zeros(4)}, tmp_path / "a.safetensors")
    with pytest.raises(VaelensError, match=r"this one holds a LoRA\. Name another file"):
        read_latents(tmp_path / "a.safetensors")


@pytest.mark.parametrize("start", [b"BM", b"\xff\x0a", b"<\0", b"P6", b"{}"])
def test_a_safetensors_header_of_any_length_is_not_taken_for_another_kind(start: bytes, tmp_path: Path) -> None:
    """The length of its header comes first: its bytes may be those with which other formats begin."""
    length = int.from_bytes(start, "little")
    header = json.dumps({"__metadata__": {"note": "<html><svg>"}}).ljust(length).encode()
    (tmp_path / "a.png").write_bytes(struct.pack("<Q", length) + header)
    with pytest.raises(BadInputError, match=r"a\.png is a safetensors file, not an image"):
        decode_file(tmp_path / "a.png")
