"""Whole pipelines of diffusers, narrow and random, on disk in the hub's layout: SD 1.x with a safety checker, SDXL."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vaelens.adapters.libraries import diffusers

WORDS = ("a", "cat", "dog", "photo", "of", "the", "red", "letter", "r")


def tokenizer(length: int = 16) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    names = [*letters, *(f"{c}</w>" for c in letters), *("".join(m) for m in merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def text_encoder(words: Any, kind: str = "CLIPTextModel", width: int = 16) -> Any:
    import transformers

    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(words), "projection_dim": width, "max_position_embeddings": 16}
    tokens = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**sizes, **tokens)).eval()


def vae(scale: float = 0.18215) -> Any:
    return diffusers().AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=scale,
    )


def tiny_vae() -> Any:
    widths = (8,) * 4
    return diffusers().AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths)


def unet(width: int, **more: Any) -> Any:
    return diffusers().UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=8,
        **more,
    )


def safety_checker() -> tuple[Any, Any]:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPVisionConfig

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    config = CLIPConfig(vision_config=vision.to_dict(), projection_dim=16)
    return StableDiffusionSafetyChecker(config), CLIPImageProcessorPil(size=32, crop_size=32)


def sd(seed: int = 0, *, with_safety_checker: bool = False) -> Any:
    """A StableDiffusionPipeline as the class itself is, 64x64 pixels."""
    library = diffusers()
    torch.manual_seed(seed)
    words = tokenizer()
    checker, extractor = safety_checker() if with_safety_checker else (None, None)
    return library.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=text_encoder(words),
        tokenizer=words,
        unet=unet(16),
        scheduler=library.PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=checker,
        feature_extractor=extractor,
        requires_safety_checker=with_safety_checker,
    )


def sdxl(seed: int = 0) -> Any:
    """A StableDiffusionXLPipeline with its two text encoders, 64x64 pixels."""
    library = diffusers()
    torch.manual_seed(seed)
    words, others = tokenizer(), tokenizer()
    return library.StableDiffusionXLPipeline(
        vae=vae(0.13025),
        text_encoder=text_encoder(words),
        text_encoder_2=text_encoder(others, "CLIPTextModelWithProjection"),
        tokenizer=words,
        tokenizer_2=others,
        unet=unet(
            32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64,
            transformer_layers_per_block=1,
        ),
        scheduler=library.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    )


def write(pipe: Any, folder: Path, *, variant: str | None = None) -> Path:
    """The pipeline on disk in the hub's layout."""
    pipe.save_pretrained(folder, variant=variant, safe_serialization=True)
    return folder


@pytest.fixture(scope="module", name="folders")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SD 1.x and SDXL on disk."""
    place = tmp_path_factory.mktemp("models")
    pipes = {"sd": sd(with_safety_checker=True), "sdxl": sdxl()}
    return {name: write(pipe, place / name) for name, pipe in pipes.items()}


def count_unet_calls(monkeypatch: pytest.MonkeyPatch, calls: list[Any]) -> None:
    """From now on each call of a UNet adds "called"."""
    unet = diffusers().UNet2DConditionModel
    forward = unet.forward

    def counted(self: Any, *given: Any, **more: Any) -> Any:
        calls.append("called")
        return forward(self, *given, **more)

    monkeypatch.setattr(unet, "forward", counted)


def publish(hub: Any, repo: str, folder: Path) -> None:
    """A folder's files on the hub stand-in: large files by sha256, small ones by git's hash."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        hub.add(repo, path.relative_to(folder).as_posix(), path.read_bytes(), lfs=path.suffix == ".safetensors")


def without_vae(folder: Path) -> None:
    """Take the VAE out of a folder's index, as a model has it that comes without."""
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": [None, None]}))
