"""Runs pruning stages on tiny checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.manifest import Artifact
from ingot.artifacts.schema import build, fields
from ingot.stages import base
from ingot.stages.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = "The river ran past the mill, and the road with the river to the town. She sold 4 hinges — in vain! "


@dataclass(frozen=True)
class Pruned:
    """What a stage made, observed and noted, and where it came from."""

    artifact: Artifact
    observed: dict[str, Any]
    notes: tuple[str, ...]
    directory: Path

    @property
    def tensors(self) -> dict[str, Any]:
        """What was observed of each weight."""
        return self.observed["tensors"]

    @property
    def before(self) -> Checkpoint:
        """The checkpoint that was pruned."""
        return Checkpoint.open(self.directory)

    @property
    def after(self) -> Checkpoint:
        """The checkpoint that was made."""
        return Checkpoint.open(self.artifact.path)

    def weight(self, name: str) -> Any:
        """A linear weight that was made, float32 [out, in]."""
        linear = next(linear for linear in self.after.architecture.linears if linear.name == name)
        value = self.after.tensors.float32(name)
        return value.T if linear.stored_in_out else value


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of about 3,000 tokens."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text("\n".join(f"{number}. {TEXT * 2}" for number in range(40)))
    return path


@pytest.fixture
def prune(store: Any, tiny_checkpoint: Any, tmp_path: Path, calibration: Path) -> Callable[..., Pruned]:
    """``(directory or family, stage, job=None, threads=1, progress=None, **params) -> Pruned``."""
    jobs = iter(range(100))

    def run(
        source: Path | str,
        stage: str,
        job: Path | None = None,
        threads: int = 1,
        progress: Any = None,
        **params: object,
    ) -> Pruned:
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
                params=build(found.params, values, prefix="prune"),
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
        return Pruned(artifact, dict(result.observed), tuple(notes), directory)

    return run


@pytest.fixture
def make_tiny(tmp_path: Path, tiny_checkpoint: Any) -> Callable[..., Path]:
    """``(family, **config) -> directory``: a tiny checkpoint whose config differs in some values."""

    def make(family: str, **changes: object) -> Path:
        import shutil

        import transformers

        from tests.conftest import FAMILIES, randomize

        model_name, config_name, values = FAMILIES[family]
        directory = tmp_path / f"changed-{family}"
        shutil.copytree(tiny_checkpoint(family), directory)
        config = getattr(transformers, config_name)(**{**values, **changes})
        model = getattr(transformers, model_name)(config)
        randomize(model, seed=1)
        model.save_pretrained(directory)
        return directory

    return make
