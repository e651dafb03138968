"""What a walk has done, kept in the job's directory: one that was killed goes on behind its last step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ....artifacts.digest import digest_file
from ....artifacts.tensors import SafetensorsWriter, TensorShape, TensorSource
from ..blocks.network import State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Results = Mapping[str, npt.NDArray[np.generic]]

RECORD = "walk.json"
DTYPES = {"uint8": "U8", "float32": "F32", "uint16": "U16", "int64": "I64"}


@dataclass(frozen=True)
class Done:
    """A step that is over. file: of its tensors.  evidence: what was observed, by tensor."""

    step: str
    file: str
    evidence: Mapping[str, object]


class Journal:
    """Steps and the states behind the last of them. fingerprint: of everything that decides what they hold.

    A record of another fingerprint, or whose files are not the bytes that were written, counts for nothing.
    """

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self._directory = directory
        self._fingerprint = fingerprint
        self._done: list[Done] = []
        self._digests: dict[str, str] = {}

    def resume(self) -> tuple[int, list[State] | None]:
        """How many steps are done, and the states behind the last; 0 and None where there are none."""
        try:
            record = json.loads((self._directory / RECORD).read_text("utf-8"))
            if record["fingerprint"] != self._fingerprint:
                return 0, None
            digests = dict(record["digests"])
            done = [Done(each["step"], each["file"], each["evidence"]) for each in record["steps"]]
            for name, digest in digests.items():
                if digest_file(self._directory / name) != digest:
                    return 0, None
            states = _read_states(self._directory / record["states"])
        except (OSError, KeyError, TypeError, ValueError):
            return 0, None
        self._done, self._digests = done, digests
        return len(done), states

    def save(
        self, step: str, results: Results, evidence: Mapping[str, object], states: Sequence[State]
    ) -> None:
        """Records a step; until this returns, the record still tells of the step before."""
        number = len(self._done)
        made = f"step-{number}.safetensors"
        self._write(made, dict(results))
        kept = f"states-{number}.safetensors"
        self._write(kept, _flat(states))
        before = f"states-{number - 1}.safetensors"
        self._digests.pop(before, None)
        self._done.append(Done(step, made, dict(evidence)))
        record = {
            "fingerprint": self._fingerprint,
            "steps": [
                {"step": each.step, "file": each.file, "evidence": each.evidence} for each in self._done
            ],
            "states": kept,
            "digests": self._digests,
        }
        self._replace(RECORD, json.dumps(record).encode())
        (self._directory / before).unlink(missing_ok=True)

    def steps(self) -> list[str]:
        """The names of the steps that are done, of an earlier run as well."""
        return [each.step for each in self._done] if self._done or self.resume()[0] else []

    def results(self) -> TensorSource:
        """The tensors of all steps."""
        return TensorSource.open(self._directory / each.file for each in self._done)

    def evidence(self) -> dict[str, object]:
        """What was observed, by tensor."""
        return {name: value for each in self._done for name, value in each.evidence.items()}

    def _write(self, name: str, tensors: dict[str, npt.NDArray[np.generic]]) -> None:
        layout = [TensorShape(each, DTYPES[str(value.dtype)], value.shape) for each, value in tensors.items()]
        draft = self._directory / f"{name}.draft"
        with draft.open("wb") as stream, SafetensorsWriter(stream, layout) as writer:
            for each, value in tensors.items():
                writer.write(each, value)
        self._digests[name] = digest_file(draft)
        draft.replace(self._directory / name)

    def _replace(self, name: str, data: bytes) -> None:
        draft = self._directory / f"{name}.draft"
        draft.write_bytes(data)
        draft.replace(self._directory / name)


def _flat(states: Sequence[State]) -> dict[str, npt.NDArray[np.generic]]:
    flat: dict[str, npt.NDArray[np.generic]] = {}
    for number, state in enumerate(states):
        flat[f"hidden.{number}"] = state.hidden.cpu().contiguous().numpy()
        if state.memory is not None:
            flat[f"memory.{number}"] = state.memory.cpu().contiguous().numpy()
    return flat


def _read_states(path: Path) -> list[State]:
    source = TensorSource.open([path])
    states: list[State] = []
    while f"hidden.{len(states)}" in source:
        number = len(states)
        memory = f"memory.{number}"
        states.append(
            State(
                torch.from_numpy(source.float32(f"hidden.{number}")),
                torch.from_numpy(source.float32(memory)) if memory in source else None,
            )
        )
    return states
