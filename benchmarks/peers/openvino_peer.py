"""OpenVINO's CPU plugin, its conversion of diffusers' network, compiled for one shape."""

import time

import openvino as ov
import torch

from peers.conversions import timed_conversion
from peers.diffusers_peers import read_half
from peers.job import Job, Loaded


def load(job: Job, precision: str | None) -> Loaded:
    """`precision` "f32", or None for its default: bfloat16 where the processor multiplies that quickly."""
    folder = job.folder / "openvino"
    model_file = folder / f"{job.task}.xml"

    def convert() -> None:
        shape = (1, job.input_shape[1], 16, 16) if job.task == "decode" else (1, 3, 64, 64)
        dynamic = ov.PartialShape([-1, shape[1], -1, -1])
        model = ov.convert_model(read_half(job), example_input=torch.randn(shape), input=[dynamic])
        ov.save_model(model, model_file, compress_to_fp16=False)

    converting = timed_conversion(model_file, convert)
    core = ov.Core()
    model = core.read_model(model_file)
    model.reshape(list(job.input_shape))
    settings = {"INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    started = time.perf_counter()
    compiled = core.compile_model(model, "CPU", settings)
    notes = {
        "conversion": f"{converting:.0f} s",
        "compilation": f"{time.perf_counter() - started:.1f} s",
        "precision": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
    }
    # copy(): the result would otherwise be overwritten by the next call.
    return Loaded(lambda x: torch.from_numpy(compiled(x.numpy())[0].copy()), notes)
