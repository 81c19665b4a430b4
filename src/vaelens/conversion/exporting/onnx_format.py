"""ONNX files, written by PyTorch's exporter and run by ONNX Runtime."""

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelens.conversion.exporting.graphs import FILES, Graph, Run

onnx: Any = import_module("onnx")  # optional packages without complete types
onnxruntime: Any = import_module("onnxruntime")

# Runtimes read it from 2022 on. Later ones add nothing that these networks need.
OPSET = 17
FILE = FILES["onnx"][0]


class OnnxFormat:
    """See `graphs.Format`."""

    def write(self, graph: Graph, folder: Path, *, half: bool, metadata: str) -> None:
        """One file with everything in it."""
        path = folder / FILE
        free = {0: "batch", 2: "height", 3: "width"}
        with torch.no_grad(), warnings.catch_warnings():
            # That this exporter is old, among them: the new one needs onnxscript, and has no opset below 18.
            warnings.simplefilter("ignore")
            exporter: Any = torch.onnx
            exporter.export(
                graph.module,
                (graph.example,),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=[graph.input],
                output_names=[graph.output],
                dynamic_axes={graph.input: free, graph.output: {0: "batch", 2: "out_height", 3: "out_width"}},
            )
        model = onnx.load(path)
        if half:
            _store_in_half(model.graph)
        entry = model.metadata_props.add()
        entry.key, entry.value = "vaelens", metadata
        onnx.checker.check_model(model)
        onnx.save(model, path)

    def open(self, folder: Path) -> Run:
        """On the CPU, with as many threads as PyTorch has."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(values: Tensor) -> Tensor:
            return torch.as_tensor(session.run(None, {name: values.contiguous().numpy()})[0])

        return run


def _store_in_half(graph: Any) -> None:
    """Weights of convolutions and products as float16, each with a cast to float32 behind it, which runtimes fold."""
    casts: list[Any] = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.data_type != onnx.TensorProto.FLOAT or values.ndim < 2:
            continue
        narrow = values.astype(np.float16)
        if not np.array_equal(narrow.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(narrow, f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    for place, node in enumerate(casts):  # before what reads them
        graph.node.insert(place, node)
