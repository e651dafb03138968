"""A training in the job's directory: all that is needed to go on exactly, and the best weights so far."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from ...artifacts.digest import digest_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

RECORD = "training.json"


@dataclass
class History:
    """What was measured. steps: [done, loss, learning rate] of every step, the loss in nats a token.

    parts: of the loss, by name, one a step.  selection: [done, loss] of every measurement, None where it was
    not finite.  best: the number of steps behind the best of them.
    """

    steps: list[list[float]] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    selection: list[list[float | None]] = field(default_factory=list)
    best: int = 0

    @property
    def best_loss(self) -> float | None:
        """The selection loss of the best point."""
        return next((loss for done, loss in self.selection if done == self.best), None)


class Journal:
    """Keeps a training. fingerprint: of everything that decides how it goes.

    A record of another fingerprint, or whose files are not the bytes that were written, counts for nothing.
    """

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self._directory = directory
        self._fingerprint = fingerprint
        self._best: tuple[str, str] | None = None

    def resume(self) -> tuple[int, dict[str, torch.Tensor], History] | None:
        """The steps that are done, what :meth:`save` was given, and the history; None where nothing is."""
        try:
            record: dict[str, Any] = json.loads((self._directory / RECORD).read_text("utf-8"))
            if record["fingerprint"] != self._fingerprint:
                return None
            for key in ("state", "best"):
                name, digest = record[key]
                if digest_file(self._directory / name) != digest:
                    return None
            state = load_file(self._directory / record["state"][0])
            history, self._best = History(**record["history"]), tuple(record["best"])
        except (OSError, KeyError, TypeError, ValueError):
            return None
        return int(record["done"]), state, history

    def keep_best(self, done: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Writes weights that are better than all before; they count from the next :meth:`save` on."""
        self._best = self._write(f"best-{done}.safetensors", weights)

    def save(self, done: int, state: Mapping[str, torch.Tensor], history: History) -> None:
        """Records where the training is; until this returns, the record still tells of the point before."""
        kept = self._write(f"state-{done}.safetensors", state)
        record = {
            "fingerprint": self._fingerprint, "done": done, "state": kept, "best": self._best,
            "history": asdict(history),
        }  # fmt: skip
        draft = self._directory / f"{RECORD}.draft"
        draft.write_text(json.dumps(record), "utf-8")
        draft.replace(self._directory / RECORD)
        current = {kept[0], self._best[0] if self._best else ""}
        for pattern in ("best-*.safetensors", "state-*.safetensors"):
            for old in self._directory.glob(pattern):
                if old.name not in current:
                    old.unlink()

    def best(self) -> dict[str, torch.Tensor]:
        """The best weights."""
        if self._best is None:
            raise AssertionError("nothing was kept")
        found: dict[str, torch.Tensor] = load_file(self._directory / self._best[0])
        return found

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> tuple[str, str]:
        draft = self._directory / f"{name}.draft"
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, draft)
        digest = digest_file(draft)
        draft.replace(self._directory / name)
        return name, digest
