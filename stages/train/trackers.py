"""What a training tells trackers as it goes: TensorBoard, Weights & Biases, MLflow, each into local files.

Losses, learning rates and speeds are all that is logged: no parameter of a recipe, no path, no variable of
the environment and nothing of the host, but that wandb names its own version, Python's and the platform.
Nothing is sent anywhere either: a stage runs without a person's credentials, and what it wrote can be
uploaded afterwards.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROJECT = "ingot"
MLFLOW_FILE = "mlflow.db"


class Tracker(Protocol):
    """Takes what a training measures."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Takes values, by name, as they are once ``step`` steps are done."""

    def close(self) -> None:
        """Writes what is not written yet; nothing is logged behind it."""


class TensorBoard:
    """Event files in a folder of the run's own; of a training that goes on, what it repeats counts once."""

    def __init__(self, directory: Path, run: str, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = str(directory / run)
        self._writer: Any = SummaryWriter(place, purge_step=done + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """As in Tracker."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """As in Tracker."""
        self._writer.close()


class WeightsAndBiases:
    """An offline run below `wandb` in the directory, which `wandb sync` uploads."""

    def __init__(self, directory: Path, run: str, done: int) -> None:
        import wandb

        quiet = wandb.Settings(
            console="off", silent=True, save_code=False, disable_code=True, disable_git=True, host="",
            x_save_requirements=False, x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
        )  # fmt: skip
        self._run: Any = wandb.init(
            project=PROJECT, name=f"{run}-{done}" if done else run, group=run, dir=str(directory),
            mode="offline", settings=quiet,
        )  # fmt: skip

    def log(self, values: Mapping[str, float], step: int) -> None:
        """As in Tracker; a step's values may come in parts."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """As in Tracker; wandb writes from a process of its own, which is waited for."""
        import wandb

        self._run.finish()
        wandb.teardown()


class MLflow:
    """A run in `mlflow.db`, a file of SQLite in the directory."""

    def __init__(self, directory: Path, run: str, done: int) -> None:
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=f"sqlite:///{directory / MLFLOW_FILE}")
        found = self._client.get_experiment_by_name(PROJECT)
        number = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(PROJECT, artifact_location=(directory / "mlflow").as_uri())
        )
        name = f"{run}-{done}" if done else run
        self._run: str = self._client.create_run(number, run_name=name).info.run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """As in Tracker."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        """As in Tracker."""
        self._client.set_terminated(self._run)


KINDS: Mapping[str, Callable[[Path, str, int], Tracker]] = {
    "tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow,
}  # fmt: skip


def open_tracker(kind: str, directory: str, run: str, done: int) -> Tracker:
    """A tracker that writes below a directory. run: the training's name.  done: steps that are behind it."""
    place = Path(directory).absolute()
    place.mkdir(parents=True, exist_ok=True)
    return KINDS[kind](place, run, done)
