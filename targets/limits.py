"""What a class of devices holds and what may be asked of it, as a profile states it.

    accepts: {quantize: [none, rtn], weights: [fp16, int8, int4]}
    limits:  {sm: 80, device_memory: 40GB, dtypes: [float16, int8, int4], artifact_size: 2GB,
              runtimes: {tensorrt-rtx: ">=1.7"}, opset: [17, 23], lacks: [If]}
    verify:  {batch: [1, 8], sequence: [128, 1024], places: {onnx: [host, device]}}

What breaks one of them is refused while planning, with the rule's name; see `demands.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..artifacts.schema import param

# What weights are called where widths are counted, and the element type that the device must have for them:
# none for nf4, which is expanded before it is multiplied.
WIDTHS: Mapping[str, str] = {
    "fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "fp8", "nf4": "",
    "int8": "int8", "int4": "int4", "int3": "int4", "int2": "int4",
}  # fmt: skip
# Where an artifact can be run: on this machine, on an emulated processor, on the device alone.
PLACES = ("host", "emulated", "device")


@dataclass(frozen=True)
class Limits:
    """What the target's device and its runtime load; None where it does not say."""

    onnxruntime: str | None = param(None, doc="versions of onnxruntime on the device, such as >=1.26,<1.32")
    runtimes: Mapping[str, str] | None = param(
        None, doc="versions of other runtimes on the device, by distribution, such as {tensorrt-rtx: >=1.7}"
    )
    opset: tuple[int, ...] | None = param(None, doc="lowest and highest opset of the default ONNX domain")
    ir_version: tuple[int, ...] | None = param(None, doc="lowest and highest ONNX IR version")
    lacks: tuple[str, ...] | None = param(None, doc="ONNX operators that its runtime does not have")
    sm: int | None = param(None, doc="compute capability of the GPU times ten: 89 is 8.9", minimum=50)
    dtypes: tuple[str, ...] | None = param(None, doc="element types that it computes with, such as float16")
    device_memory: int | str | None = param(None, doc="memory for the model on the device, such as 24GB")
    artifact_size: int | str | None = param(None, doc="the largest artifact that may be shipped, as 100MB")


@dataclass(frozen=True)
class Accepts:
    """What may be asked of the target; None where anything may."""

    quantize: tuple[str, ...] | None = param(
        None, doc="quantize methods it runs; none leaves the model as it is"
    )
    weights: tuple[str, ...] | None = param(None, doc=f"widths of the weights: {', '.join(WIDTHS)}")


@dataclass(frozen=True)
class Verify:
    """What is run to validate an artifact, and where it can be; None where the profile does not say."""

    batch: tuple[int, ...] | None = param(None, doc="sequences in one run, of each size that is validated")
    sequence: tuple[int, ...] | None = param(None, doc="tokens of a sequence, of each length validated")
    device: str | None = param(
        None, choices=("cuda",), doc="the device that places name: cuda, an NVIDIA GPU of the limits' sm"
    )
    places: Mapping[str, tuple[str, ...]] | None = param(
        None, doc=f"artifact kind, such as onnx, → where it can be run: {', '.join(PLACES)}"
    )

    def places_of(self, kind: str) -> tuple[str, ...]:
        """Where an artifact of that kind can be run; on this machine where the profile says nothing."""
        return (self.places or {}).get(kind, PLACES[:1])
