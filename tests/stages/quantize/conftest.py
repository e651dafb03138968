"""Runs quantizers on tiny checkpoints, and computes with what they made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ..conftest import Made

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Quantized(Made):
    """What a quantizer made of a checkpoint."""

    @property
    def record(self) -> dict[str, Any]:
        """What `quantization.json` says."""
        return json.loads((self.artifact.path / "quantization.json").read_text("utf-8"))


@pytest.fixture
def calibrated(make_from: Callable[..., Made]) -> Callable[..., Quantized]:
    """``(directory or family, stage, job=None, threads=1, progress=None, **params) -> Quantized``."""
    return lambda *given, **params: Quantized(**vars(make_from(*given, **params)))


@pytest.fixture
def output_error(tiny_checkpoint: Any, calibration: Path) -> Callable[..., float]:
    """``(directory or family, quantized or weights) -> ‖y − ŷ‖ / ‖y‖``, y the network's last outputs.

    They are those of the calibration text; weights: float32 [out, in] by name, what the network is given.
    """

    def outputs(directory: Path, replace: dict[str, Any]) -> Any:
        import torch
        from ingot.stages.model.blocks.network import State, advance, steps
        from ingot.stages.model.blocks.tensors import BlockTensors
        from ingot.stages.model.calibration.samples import take
        from ingot.stages.model.checkpoint import Checkpoint

        checkpoint = Checkpoint.open(directory)
        model, found = checkpoint.architecture, []
        linears = {linear.name: linear for linear in model.linears}
        for batch in take(calibration, directory, model, 64, 16).batches:
            state = State(torch.empty(0))
            for step in steps(model):
                tensors = BlockTensors(checkpoint.tensors, torch.device("cpu"), torch.float32)
                for name in replace.keys() & {linear.name for linear in step.linears}:
                    tensors.replace(linears[name], torch.from_numpy(replace[name]))
                run = step.run(tensors, lambda tensor: tensor, batch, state)
                while True:
                    try:
                        next(run)
                    except StopIteration as end:
                        state = advance(step, state.memory, end.value)
                        break
            found.append(state.hidden.flatten())
        return torch.cat(found)

    def error(source: Path | str, quantized: Quantized | dict[str, Any]) -> float:
        import torch
        from ingot.stages.model.quantized import QuantizedCheckpoint

        directory = tiny_checkpoint(source) if isinstance(source, str) else source
        with torch.inference_mode():
            exact = outputs(directory, {})
            if isinstance(quantized, Quantized):
                made = QuantizedCheckpoint.open(quantized.artifact.path)
                replaced = {name: made.weight(name).dequantize() for name in made.quantized}
            else:
                replaced = quantized
            rounded = outputs(directory, replaced)
            return float((exact - rounded).norm() / exact.norm())

    return error
