"""A tiny network and a text to take through it, and a visitor that writes down what it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


TEXT = "The river ran past the mill, and the road with the river to the town. She sold 4 hinges — in vain! "


@dataclass
class Recorder:
    """Keeps every input, of the maps wanted; ``change`` may replace weights."""

    wanted: set[str]
    compares: bool = False
    change: Callable[[Any], None] | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    exact: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    visits: list[str] = field(default_factory=list)

    def visit(self, stop: Any) -> None:
        """Writes down the inputs, as one tensor over all batches."""
        import torch

        for linear in stop.linears:
            self.visits.append(linear.name)
            self.seen[linear.name] = torch.cat(stop.inputs).clone()
            if stop.exact is not None:
                self.exact[linear.name] = torch.cat(stop.exact).clone()
            self.made[linear.name] = self.seen[linear.name][:2].float().numpy()
        if self.change is not None:
            self.change(stop)

    def collect(self) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        """The first two rows of what was seen in this step."""
        made, self.made = self.made, {}
        return made, {name: {"rows": len(value)} for name, value in made.items()}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Enough text for a dozen windows of 40 tokens."""
    path = tmp_path / "calibration.txt"
    path.write_text("\n".join(f"{number}. {TEXT * 2}" for number in range(20)))
    return path


@pytest.fixture
def make_walk(tiny_checkpoint: Any, text: Path, tmp_path: Path) -> Callable[..., Any]:
    """``(family, threads=1, budget=1 GiB, dtype=float32, most=10) -> Walk``."""

    def make(
        family: str, threads: int = 1, budget: int = 1 << 30, dtype: str = "float32", most: int = 10
    ) -> Any:
        import torch
        from ingot.stages.model.calibration.samples import take
        from ingot.stages.model.calibration.shelf import Shelf
        from ingot.stages.model.calibration.walk import Walk
        from ingot.stages.model.checkpoint import Checkpoint

        directory = tiny_checkpoint(family)
        checkpoint = Checkpoint.open(directory)
        samples = take(text, directory, checkpoint.architecture, 40, most)
        device, kind = torch.device("cpu"), getattr(torch, dtype)
        shelf = Shelf(budget, tmp_path)
        return Walk(
            checkpoint.architecture, checkpoint.tensors, samples.batches, shelf, device, kind, threads
        )

    return make


@pytest.fixture
def run_walk(make_walk: Callable[..., Any], tmp_path: Path) -> Callable[..., Recorder]:
    """``(family, **recorder and walk options) -> Recorder`` behind a whole walk, in a job of its own."""
    from ingot.stages.model.calibration.journal import Journal

    jobs = iter(range(100))

    def run(family: str, *, compares: bool = False, change: Any = None, **options: Any) -> Recorder:
        walk = make_walk(family, **options)
        recorder = Recorder({linear.name for linear in walk.model.linears}, compares, change)
        job = tmp_path / f"job-{next(jobs)}"
        job.mkdir()
        walk.run(recorder, Journal(job, "print"), lambda done, total, what: None)
        return recorder

    return run
