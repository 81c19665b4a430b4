"""VAEs as graphs for other runtimes: ONNX and OpenVINO. Both are optional; importing this brings in neither."""
