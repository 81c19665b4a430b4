"""OpenVINO's intermediate representation, written and run by OpenVINO itself."""

import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelens.conversion.exporting.graphs import FILES, Graph, Run

ov: Any = import_module("openvino")  # an optional package without complete types
frontends: Any = import_module("openvino.frontend")
tracing: Any = import_module("openvino.frontend.pytorch.ts_decoder")

FILE = FILES["openvino"][0]


@cache
def _core() -> Any:
    """One for the process: two that end in their own order leave it with a stack for signals that is gone."""
    return ov.Core()


class OpenVinoFormat:
    """See `graphs.Format`."""

    def write(self, graph: Graph, folder: Path, *, half: bool, metadata: str) -> None:
        """A file of operations and one of weights."""
        # Not by `openvino.convert_model`, which reports each conversion to a server.
        frontend = frontends.FrontEndManager().load_by_framework("pytorch")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that tracing is old
            decoder = tracing.TorchScriptPythonDecoder(graph.module, example_input=(graph.example,))
            model = frontend.convert(frontend.load(decoder))
        source, result = model.inputs[0], model.outputs[0]
        source.get_tensor().set_names({graph.input})
        result.get_tensor().set_names({graph.output})
        source.get_node().set_friendly_name(graph.input)
        source.get_node().set_element_type(ov.Type.f32)
        source.get_node().set_partial_shape(ov.PartialShape([-1, graph.example.shape[1], -1, -1]))
        model.validate_nodes_and_infer_types()
        model.set_rt_info(metadata, ["vaelens"])
        ov.save_model(model, folder / FILE, compress_to_fp16=half)

    def open(self, folder: Path) -> Run:
        """On the CPU in float32, which isn't OpenVINO's default where the processor is faster in bfloat16."""
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        core = _core()
        compiled = core.compile_model(core.read_model(folder / FILE), "CPU", settings)

        def run(values: Tensor) -> Tensor:
            return torch.as_tensor(compiled(values.contiguous().numpy())[0].copy())  # the next call reuses it

        return run
