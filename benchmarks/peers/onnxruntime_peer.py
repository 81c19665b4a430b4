"""ONNX Runtime's CPU provider in fp32, with all of its graph optimisations."""

import onnxruntime
import torch

from peers.conversions import timed_conversion
from peers.diffusers_peers import read_half
from peers.job import Job, Loaded


def load(job: Job) -> Loaded:
    """From torch's TorchScript exporter, whose graph it optimises for itself when the session begins."""
    file = job.folder / "onnx" / f"{job.task}.onnx"

    def convert() -> None:
        shape = (1, 4, 16, 16) if job.task == "decode" else (1, 3, 64, 64)
        torch.onnx.export(
            read_half(job), (torch.randn(shape),), file, dynamo=False, opset_version=17,
            input_names=["x"], output_names=["y"],
            dynamic_axes={name: {0: "batch", 2: "height", 3: "width"} for name in ("x", "y")},
        )  # fmt: skip

    converting = timed_conversion(file, convert)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    for name, size in zip(("batch", "height", "width"), (job.batch, *job.input_shape[2:]), strict=True):
        options.add_free_dimension_override_by_name(name, size)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    notes = {"conversion": f"{converting:.0f} s"}
    return Loaded(lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), notes)
