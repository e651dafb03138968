"""TensorRT engines: built from the graphs of `export.onnx_nvidia`, with or without a GPU."""
