"""The peers by name, each with how it is loaded. Their libraries are imported when they are."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch

from peers.job import Job, Loaded

OURS, OURS_BF16 = "vaelens", "vaelens bfloat16"
DEFAULT, CHANNELS_LAST = "diffusers", "diffusers channels_last"
BF16_LAST = "diffusers bfloat16 channels_last"
OPENVINO_DEFAULT = "OpenVINO default"
REFERENCE = "diffusers float64"


@dataclass(frozen=True)
class Peer:
    module: str  # of this package
    load: Callable[[Job], Loaded]
    libraries: tuple[str, ...]  # distributions whose versions the record names


def _peer(module: str, *libraries: str, function: str = "load", **options: object) -> Peer:
    def load(job: Job) -> Loaded:
        return functools.partial(getattr(import_module(f"peers.{module}"), function), **options)(job)

    return Peer(module, load, libraries)


PEERS = {
    OURS: _peer("vaelens_peer", "vaelens", "torch"),
    DEFAULT: _peer("diffusers_peers", "diffusers", "torch"),
    CHANNELS_LAST: _peer("diffusers_peers", "diffusers", "torch", channels_last=True),
    "diffusers tiled": _peer("diffusers_peers", "diffusers", "torch", function="load_tiled"),
    "OpenVINO f32": _peer("openvino_peer", "openvino", precision="f32"),
    "ncnn": _peer("ncnn_peer", "ncnn", "pnnx"),
    "ONNX Runtime": _peer("onnxruntime_peer", "onnxruntime", "onnx"),
    OURS_BF16: _peer("vaelens_peer", "vaelens", "torch", dtype=torch.bfloat16),
    "diffusers bfloat16": _peer("diffusers_peers", "diffusers", "torch", dtype=torch.bfloat16),
    BF16_LAST: _peer("diffusers_peers", "diffusers", "torch", dtype=torch.bfloat16, channels_last=True),
    OPENVINO_DEFAULT: _peer("openvino_peer", "openvino", precision=None),
}
REFERENCES = {REFERENCE: _peer("diffusers_peers", "diffusers", "torch", dtype=torch.float64)}
LOW_PRECISION = {OURS_BF16, "diffusers bfloat16", BF16_LAST, OPENVINO_DEFAULT}
