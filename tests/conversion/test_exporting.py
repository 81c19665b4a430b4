"""ONNX and OpenVINO graphs of VAEs: names, free sizes, values, and what happens where something is missing or wrong."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from torch import Tensor

from support.commands import invoke
from support.overflowing import photo_like, with_quiet_group
from support.vaes import CONFIGS, TINY, random_vae
from vaelens.conversion.exporting import graphs, workflow
from vaelens.conversion.exporting.workflow import TOLERANCE, export
from vaelens.conversion.fp16_checks import rescue
from vaelens.errors import CheckFailedError, UsageError
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.vae import VAE

FORMATS = ("onnx", "openvino")
VAES = {
    "sd1": lambda: random_vae(CONFIGS["sd1"]),
    "sd3": lambda: random_vae(CONFIGS["sd3"], space=None, scale=1.5305, shift=0.0609),
    "no attention": lambda: random_vae(CONFIGS["no attention"], space=None),
    "taesd": lambda: random_vae(TINY),
}


def installed(name: str) -> str:
    for package in workflow.FORMATS[name][2]:
        pytest.importorskip(package, reason=f"needs the extra {name}")
    return name


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    return installed(request.param)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = (photo_like(56)[0][0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def opened(folder: Path, kind: str) -> Any:
    """A graph as a function of numpy arrays, with its names, by the runtime itself."""
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        names = [one.name for one in (*session.get_inputs(), *session.get_outputs())]
        return names, lambda values: session.run(None, {names[0]: values})[0]
    from vaelens.conversion.exporting import openvino_format

    core = openvino_format._core()  # the only one of a process: see there
    model = core.read_model(folder / "openvino_model.xml")
    names = [one.get_any_name() for one in (*model.inputs, *model.outputs)]
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return names, lambda values: compiled(values)[0]


@pytest.mark.parametrize("name", VAES)
def test_graphs_have_the_names_and_values_that_pipelines_expect(
    name: str, kind: str, photo: Path, tmp_path: Path
) -> None:
    """diffusers' own network is what pipelines run elsewhere, so theirs are the values."""
    vae = VAES[name]()
    found = export(vae, tmp_path / "out", format=kind, photos=[photo])
    assert max(found.differences.latents_largest, found.differences.pixels_largest) < TOLERANCE / 5
    assert len(found.sizes) == 2
    assert all(height != width for height, width in found.sizes)
    config = json.loads((tmp_path / "out/vae_decoder/config.json").read_text())
    assert config == json.loads((tmp_path / "out/vae_encoder/config.json").read_text())
    assert config["scaling_factor"] == vae.spec.scaling_factor
    assert 2 ** (len(config["block_out_channels"]) - 1) == vae.spec.factor  # as pipelines count it
    theirs = (AutoencoderTiny if name == "taesd" else AutoencoderKL).from_pretrained(vae.save(tmp_path / "diffusers"))

    (source, result), encode = opened(tmp_path / "out/vae_encoder", kind)
    assert (source, result) == ("sample", "latent_sample" if name == "taesd" else "latent_parameters")
    (source, result), decode = opened(tmp_path / "out/vae_decoder", kind)
    assert (source, result) == ("latent_sample", "sample")
    for batch, rows, columns in ((1, 5, 7), (3, 2, 9)):  # neither of them was traced or compared
        pixels = torch.rand(batch, 3, rows * vae.spec.factor, columns * vae.spec.factor) * 2 - 1
        z = torch.randn(batch, vae.spec.latent_channels, rows, columns)
        with torch.no_grad():
            encoded = theirs.encode(pixels)
            moments = encoded.latents if name == "taesd" else encoded.latent_dist.parameters
            image = theirs.decode(z).sample
        assert np.abs(encode(pixels.numpy()) - moments.numpy()).max() < TOLERANCE
        assert np.abs(decode(z.numpy()) - image.numpy()).max() < TOLERANCE


def test_float16_stores_the_weights_only(kind: str, photo: Path, tmp_path: Path) -> None:
    wide, narrow = (
        export(random_vae(CONFIGS["sd1"]), tmp_path / dtype, format=kind, dtype=dtype, photos=[photo])
        for dtype in ("fp32", "fp16")
    )
    assert narrow.bytes < 0.7 * wide.bytes
    assert narrow.differences.pixels_largest < TOLERANCE
    assert wide.by_dtype is None
    assert narrow.by_dtype.pixels_largest > 0
    _, decode = opened(tmp_path / "fp16/vae_decoder", kind)
    assert decode(np.zeros((1, 4, 3, 3), np.float32)).dtype == np.float32


def test_onnx_is_read_by_runtimes_of_2022_and_says_what_it_is(photo: Path, tmp_path: Path) -> None:
    installed("onnx")
    import onnx

    vae = random_vae(CONFIGS["sd1"])
    export(vae, tmp_path / "out", format="onnx", photos=[photo])
    model = onnx.load(tmp_path / "out/vae_decoder/model.onnx")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.ir_version <= 8
    (entry,) = model.metadata_props
    assert json.loads(entry.value)["latent_space"] == "sd1"


def test_a_scaled_epsilon_is_exported(kind: str, tmp_path: Path) -> None:
    images = photo_like()
    vae = rescue(with_quiet_group(CONFIGS["sd1"]), images).vae
    stock = dataclasses.replace(vae.spec, config=dataclasses.replace(vae.spec.config, norm_exponents=()))
    for one in graphs.graphs(vae):
        (tmp_path / one.name).mkdir()
        workflow.find_format(kind).write(one, tmp_path / one.name, half=False, metadata="{}")
    _, decode = opened(tmp_path / "vae_decoder", kind)
    z = vae.encode(images[0]).posterior.mode()
    pixels = torch.as_tensor(decode(z.numpy()))
    with torch.no_grad():
        wanted = vae.network.decode(z)
        tensors, where = vae.tensors(), {"device": vae.device, "dtype": torch.float32}
        other = VAE.from_tensors(tensors, stock, "stock", **where).network.decode(z)
    assert (pixels - wanted).abs().max() < TOLERANCE < (other - wanted).abs().max()


def test_graphs_that_differ_are_not_written(
    kind: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "out/vae_decoder/config.json"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    vae = random_vae(TINY)

    def wrong(module: Any, z: Tensor) -> Tensor:
        return module.decoder(z) * 0.5 + 0.502

    with monkeypatch.context() as patched:
        patched.setattr(graphs.ExportedNetwork, "decode", wrong)
        with pytest.raises(CheckFailedError, match=r"more than 0\.001; nothing was written"):
            export(vae, tmp_path / "out", format=kind, photos=[photo])
    assert old.read_text() == "old"
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [old]
    export(vae, tmp_path / "out", format=kind, photos=[photo])
    assert old.read_text() != "old"


def test_a_wrong_spread_is_noticed(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("onnx")
    right = graphs.ExportedNetwork.posterior

    def wrong(module: Any, pixels: Tensor) -> Any:
        found = right(module, pixels)
        found.logvar = found.logvar + 0.1
        return found

    monkeypatch.setattr(graphs.ExportedNetwork, "posterior", wrong)
    with pytest.raises(CheckFailedError, match="in their spread"):
        export(random_vae(CONFIGS["sd1"]), tmp_path / "out", format="onnx", photos=[photo])


def test_signals_are_handled_after_openvino_has_run(photo: Path, tmp_path: Path) -> None:
    """In a process of its own, which such a signal may end."""
    installed("openvino")
    file = random_vae(TINY).save(tmp_path / "vae.safetensors")
    program = (
        "import signal, vaelens\n"
        f"vaelens.export({str(file)!r}, {str(tmp_path / 'out')!r}, format='openvino', photos=[{str(photo)!r}])\n"
        "signal.signal(signal.SIGINT, lambda *_: print('handled'))\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert (ran.returncode, ran.stdout) == (0, "handled\n"), ran.stderr


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_extra_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, packages = workflow.FORMATS[name]
    monkeypatch.delitem(sys.modules, f"vaelens.conversion.exporting.{module}", raising=False)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"isn't installed\. Install\s+them: pip install 'vaelens\[{name}\]'"):
        export(random_vae(TINY), tmp_path / "out", format=name)


def test_what_cannot_be_exported_is_refused(photo: Path, tmp_path: Path) -> None:
    installed("onnx")
    vae = random_vae(TINY)
    for wrong, message in (
        ({"format": "tflite"}, "no format is called 'tflite'. Known: onnx, openvino"),
        ({"dtype": "bfloat16"}, "float32 or float16, not bfloat16"),
        ({"source": random_vae(CONFIGS["sd1"]).to(torch.float16)}, "load it with dtype float32"),
        (
            {"source": random_vae(TinyAutoencoderConfig(width=8, mid_block_pool=True))},
            r"exported: .* no such network",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            export(**{"source": vae, "output": tmp_path / "out", "format": "onnx", "photos": [photo], **wrong})
    with torch.no_grad():
        vae.network.decoder.layers[0].bias.fill_(1e6)
    with pytest.raises(UsageError, match=r"decoder\.layers\.0\.bias has values up to 1e\+06"):
        export(vae, tmp_path / "out", format="onnx", dtype="fp16", photos=[photo])
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_files_is_refused(kind: str, photo: Path, tmp_path: Path) -> None:
    vae, folder = random_vae(TINY), tmp_path / "out"
    folder.mkdir()
    (folder / ".DS_Store").touch()
    export(vae, folder, format=kind, photos=[photo])
    (folder / "notes.txt").touch()
    export(vae, folder, format=kind, photos=[photo])  # it holds an earlier export
    with pytest.raises(UsageError, match=r"isn't empty and holds no earlier export, but out and 1 more"):
        export("ft-mse", photo.parent, format=kind, photos=[photo])  # before anything is downloaded
    assert not (photo.parent / "vae_encoder").exists()


def test_graphs_of_two_vaes_are_not_mixed(kind: str, photo: Path, tmp_path: Path) -> None:
    """Graphs of another format stay where they are, and one config.json tells the scale of both."""
    folder = tmp_path / "out" / "vae_decoder"
    export(random_vae(TINY), folder.parent, format=kind, photos=[photo])
    other = "model.onnx" if kind == "openvino" else "openvino_model.bin"
    (folder / other).touch()
    export(random_vae(TINY, seed=1), folder.parent, format=kind, photos=[photo])  # the same config.json
    before = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(before.replace(b"1.0", b"2.0"))
    with pytest.raises(UsageError, match=rf"{other} is of another VAE, by the config\.json beside it"):
        export(random_vae(TINY), folder.parent, format=kind, photos=[photo])
    (folder / other).rename(folder / "README.md")  # no graph
    export(random_vae(TINY), folder.parent, format=kind, photos=[photo])


def test_the_command_prints_the_difference(kind: str, photo: Path, tmp_path: Path) -> None:
    file = random_vae(TINY).save(tmp_path / "vae.safetensors")
    arguments = ("export", file, "-o", tmp_path / "out", "--format", kind, "--photo", photo)
    ran = invoke(*arguments)
    assert "difference   latents" in ran.stdout
    assert "compared on  1 photo, at 72x56, 54x35" in ran.stdout
    found = json.loads(invoke(*arguments, "--dtype", "fp16", "--json").stdout)
    assert found["stored"] == "float16"
    assert found["by_dtype"]["pixels_largest"] >= 0
    assert len(found["written"]) == (4 if kind == "onnx" else 6)
    invoke(*arguments[:-2], "--dtype", "int8", code=2)
    blocked = tmp_path / "out/vae_decoder/config.json"
    blocked.unlink()
    blocked.mkdir()
    assert "is a folder" in invoke(*arguments, code=2).stderr
