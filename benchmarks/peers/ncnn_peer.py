"""ncnn in fp32 with its Winograd convolutions, converted by pnnx. It takes one image at a time."""

import os
from pathlib import Path

import ncnn
import numpy as np
import pnnx
import torch
from torch import Tensor

from peers.conversions import timed_conversion
from peers.diffusers_peers import read_half
from peers.job import Job, Loaded


def load(job: Job) -> Loaded:
    """fp32 throughout: without its halves of fp16 and bf16."""
    folder = job.folder / "ncnn"
    param, weights = (folder / f"{job.task}.ncnn.{suffix}" for suffix in ("param", "bin"))

    def convert() -> None:
        sizes = ((1, 4, 8, 8), (1, 4, 16, 16)) if job.task == "decode" else ((1, 3, 64, 64), (1, 3, 128, 128))
        first, second = (torch.randn(size) for size in sizes)  # two, so that sizes stay open
        before = Path.cwd()
        os.chdir(folder)  # pnnx writes Python files into the working folder
        try:
            pnnx.export(
                read_half(job), f"{job.task}.pt", inputs=(first,), inputs2=(second,), fp16=False, check_trace=False
            )
        finally:
            os.chdir(before)

    converting = timed_conversion(param, convert)
    net = ncnn.Net()
    net.opt.num_threads = job.threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise RuntimeError(f"ncnn can't read {param}")

    def one(x: Tensor) -> Tensor:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(x.numpy()))
        failed, output = extractor.extract("out0")
        if failed:
            raise RuntimeError("ncnn failed")
        return torch.from_numpy(np.array(output))

    return Loaded(lambda x: torch.stack([one(image) for image in x]), {"conversion": f"{converting:.0f} s"})
