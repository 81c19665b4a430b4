"""VAEs in each layout, prefix, wrapper, dtype and format are the same tensors; the key lists are whole."""

import itertools
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL

import vaelens as vl
from support.commands import invoke
from support.pickled_vaes import LAYOUTS, PREFIXES, WRAPPERS, as_ldm, ldm_names, name_of_2022, written
from support.vaes import NARROW, random_vae, same_bytes
from vaelens.errors import BadInputError
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.vae import VAE
from vaelens.weights.reading import read_vae
from vaelens.weights.spec_sources import metadata_text

KEYS = Path(__file__).with_name("keys")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}
SMALL = AutoencoderKLConfig(block_out_channels=(4, 4, 4, 4), norm_num_groups=2, layers_per_block=1)


@pytest.fixture(scope="module")
def small() -> VAE:
    return random_vae(SMALL, space=None)


def folder_with(vae: VAE, tmp_path: Path, name: str, content: bytes) -> Path:
    """The file beside its VAE's config.json: pickled files have no metadata."""
    folder = vae.save(tmp_path / "vae")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_each_layout_prefix_and_wrapper_in_each_format_gives_the_same_tensors(
    small: VAE, form: str, dtype: str, tmp_path: Path
) -> None:
    state = {name: t.to(DTYPES[dtype]) for name, t in small.network.state_dict().items()}
    wrappers = ["none"] if form == "safetensors" else [*WRAPPERS]
    file = folder_with(small, tmp_path, "vae.ckpt", b"")
    for layout, prefix, wrapper in itertools.product(LAYOUTS, PREFIXES, wrappers):
        named = {prefix + n: t.clone() for n, t in LAYOUTS[layout](state).items()}
        metadata = {"vaelens": metadata_text(small.spec)} if form == "safetensors" else None
        file.write_bytes(written(WRAPPERS[wrapper](named), form, metadata))
        read = read_vae(file)
        case = (layout, prefix, wrapper)
        assert same_values(read.tensors, state), case
        assert read.layout == layout.partition(" ")[0], case
        assert read.prefix == prefix, case
        is_ldm_ema = wrapper == "ldm's own" and prefix in {"", "module.", "_orig_mod.", "state_dict."}
        assert ("model_ema.encoderconv_inweight" in read.dropped) == is_ldm_ema, case


def same_values(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Names, dtypes and bits; numpy has no bfloat16."""
    return same_bytes({n: t.contiguous().view(torch.uint8) for n, t in a.items()}, {
        n: t.contiguous().view(torch.uint8) for n, t in b.items()
    }) and all(a[n].dtype == b[n].dtype for n in a)  # fmt: skip


@pytest.mark.parametrize("wrapper", ["ema_state_dict", "ema", "params_ema"])
def test_an_average_in_a_table_of_its_own_is_read_as_ema(small: VAE, wrapper: str, tmp_path: Path) -> None:
    state = dict(small.network.state_dict())
    file = folder_with(small, tmp_path, "vae.pt", written({wrapper: state, "step": 3}, "zip"))
    assert read_vae(file).prefix == "ema."
    assert same_values(read_vae(file).tensors, state)
    file.write_bytes(written({wrapper: state, "model": {n: t + 1 for n, t in state.items()}}, "zip"))
    with pytest.raises(BadInputError, match=r"more than one VAE, under 'ema\.' and no prefix"):
        read_vae(file)


def test_the_key_lists_are_whole() -> None:
    """diffusers' names from diffusers' own class; CompVis' from how its code builds the network; both committed."""
    with torch.device("meta"):
        theirs = DiffusersKL(
            block_out_channels=(128, 256, 512, 512), latent_channels=4, layers_per_block=2,
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        ).state_dict()  # fmt: skip
    lists = {name: (KEYS / f"{name}.txt").read_text().split() for name in ("diffusers", "diffusers-2022", "compvis")}
    assert [len(names) for names in lists.values()] == [248, 248, 248]
    assert lists["diffusers"] == sorted(theirs)
    assert lists["diffusers-2022"] == sorted(name_of_2022(name) for name in theirs)
    assert lists["compvis"] == sorted(ldm_names()) == sorted(as_ldm(dict(theirs)))


@pytest.mark.parametrize("layout", ["diffusers", "diffusers-2022", "compvis"])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_a_file_with_a_whole_key_list_is_read(layout: str, form: str, tmp_path: Path) -> None:
    vae = random_vae(NARROW)
    state = dict(vae.network.state_dict())
    key = {"diffusers": "diffusers", "diffusers-2022": "diffusers of 2022", "compvis": "ldm"}[layout]
    named = {n: t.contiguous() for n, t in LAYOUTS[key](state).items()}
    assert sorted(named) == (KEYS / f"{layout}.txt").read_text().split()
    file = folder_with(vae, tmp_path, "vae.ckpt", written(named, form, {"vaelens": metadata_text(vae.spec)}))
    assert same_values(read_vae(file).tensors, state)


def test_what_is_dropped_is_said(small: VAE, tmp_path: Path) -> None:
    state = dict(small.network.state_dict())
    file = folder_with(small, tmp_path, "old.ckpt", written(WRAPPERS["lightning"](state), "zip"))
    names = ["support.pickled_vaes.Callback", "callbacks", "optimizer_states", "lr_schedulers", "hyper_parameters"]
    assert set(names) <= set(read_vae(file).not_tensors)
    notes: list[str] = []
    loaded = vl.load(file, device="cpu", notify=notes.append)
    assert same_values(dict(loaded.network.state_dict()), state)
    assert any("nothing in it was run. Dropped: support.pickled_vaes.Callback" in note for note in notes)
    ran = invoke("inspect", file)
    assert all(name in ran.stdout for name in names)
    file.write_bytes(written(state, "zip"))
    notes.clear()
    vl.load(file, device="cpu", notify=notes.append)
    assert notes == []
