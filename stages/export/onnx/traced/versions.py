"""The ONNX that traced graphs are written in."""

from __future__ import annotations

# The newest opset of torch's TorchScript exporter, and the IR version of its time.
OPSET, IR_VERSION = 20, 9
