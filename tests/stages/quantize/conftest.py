"""Runs quantizers on tiny checkpoints, and computes with what they made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.manifest import Artifact
from ingot.artifacts.schema import build, fields
from ingot.stages import base

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


TEXT = "The river ran past the mill, and the road with the river to the town. She sold 4 hinges — in vain! "


@dataclass(frozen=True)
class Quantized:
    """What a stage made, observed and noted."""

    artifact: Artifact
    observed: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def tensors(self) -> dict[str, Any]:
        """What was observed of each weight."""
        return self.observed["tensors"]

    @property
    def record(self) -> dict[str, Any]:
        """What `quantization.json` says."""
        return json.loads((self.artifact.path / "quantization.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of about 3,000 tokens."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text("\n".join(f"{number}. {TEXT * 2}" for number in range(40)))
    return path


@pytest.fixture
def calibrated(
    store: Any, tiny_checkpoint: Any, tmp_path: Path, calibration: Path
) -> Callable[..., Quantized]:
    """``(directory or family, stage, job=None, threads=1, progress=None, **params) -> Quantized``."""
    jobs = iter(range(100))

    def run(
        source: Path | str,
        stage: str,
        job: Path | None = None,
        threads: int = 1,
        progress: Any = None,
        **params: object,
    ) -> Quantized:
        directory = tiny_checkpoint(source) if isinstance(source, str) else source
        with store.outbox() as outbox:
            for path in directory.iterdir():
                outbox.copy_in(path, path.name)
            given = outbox.publish("checkpoint", {})
        found, notes = base.get(stage), []
        job = job or tmp_path / f"job-{next(jobs)}"
        job.mkdir(exist_ok=True)
        usual = {"calibration": str(calibration), "samples": 16, "window": 64}
        values = {**{name: usual[name] for name in usual if name in fields(found.params)}, **params}
        with store.outbox() as outbox:
            context = base.Context(
                params=build(found.params, values),
                inputs={"model": given},
                output=outbox,
                job=job,
                seed=0,
                threads=threads,
                progress=progress or (lambda done, total, what: None),
                note=notes.append,
            )
            result = found.run(context)
            artifact = outbox.publish(found.output, result.facts)
        return Quantized(artifact, dict(result.observed), tuple(notes))

    return run


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
