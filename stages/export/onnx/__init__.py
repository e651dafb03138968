"""`export.onnx`: the graph written directly from the architecture, the weights streamed beside or into it."""
