"""What all stages that write ONNX are asked: where weights go, and what the target's runtime loads."""

from __future__ import annotations

from dataclasses import dataclass

from ....artifacts.schema import param
from ...base import Requirement

ANY_VERSION = (1, 10_000)


@dataclass(frozen=True)
class FileParams:
    """Parameters of an ONNX file."""

    external_data_above_bytes: int = param(
        1_000_000_000,
        minimum=0,
        doc="weights of models above this size go to model.onnx.data; below, one file is easier to handle, "
        "above, a separate one is mapped and loads in half the time and memory; what encoder and decoder "
        "share is always there, so that it is there once",
    )
    opset_range: tuple[int, ...] = param(
        ANY_VERSION, in_key=False, doc="lowest and highest opset that the target's runtime loads"
    )
    ir_version_range: tuple[int, ...] = param(
        ANY_VERSION, in_key=False, doc="lowest and highest ONNX IR version that the target's runtime loads"
    )

    def loads(self, opset: int, ir_version: int) -> tuple[Requirement, ...]:
        """That the target's runtime takes the opset and the IR version, known before anything runs."""
        checks = (
            ("opset", opset, self.opset_range),
            ("IR version", ir_version, self.ir_version_range),
        )
        return tuple(
            Requirement(
                f"ONNX {what} {value} within the target's {bounds[0]} to {bounds[-1]}",
                bounds[0] <= value <= bounds[-1],
                "choose a target whose runtime is newer, or another export.opset",
            )
            for what, value, bounds in checks
        )
