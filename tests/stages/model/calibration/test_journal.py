"""A journal tells of whole steps alone, and of none when anything about it is not as it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path


def state(value: float) -> Any:
    import torch
    from ingot.stages.model.blocks.network import State

    return State(torch.full((2, 3, 4), float(value)), torch.full((2, 5, 4), -float(value)))


def written(directory: Path) -> Any:
    from ingot.stages.model.calibration.journal import Journal

    journal = Journal(directory, "print")
    journal.save("embedding", {"a": np.float32([[1, 2]])}, {"a": {"bits": 4}}, [state(1), state(2)])
    journal.save("layers.0", {"b": np.uint8([[3]])}, {"b": {"bits": 2}}, [state(3), state(4)])
    return journal


def test_it_gives_back_steps_states_and_evidence(tmp_path: Path) -> None:
    import torch
    from ingot.stages.model.calibration.journal import Journal

    written(tmp_path)
    journal = Journal(tmp_path, "print")
    done, states = journal.resume()
    assert done == 2
    assert [float(each.hidden[0, 0, 0]) for each in states] == [3, 4]
    assert torch.equal(states[1].memory, state(4).memory)
    assert journal.evidence() == {"a": {"bits": 4}, "b": {"bits": 2}}
    assert journal.results().array("b").tolist() == [[3]]


def test_states_of_earlier_steps_are_not_kept(tmp_path: Path) -> None:
    written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "states-1.safetensors", "step-0.safetensors", "step-1.safetensors", "walk.json",
    ]  # fmt: skip


def test_another_fingerprint_starts_from_nothing(tmp_path: Path) -> None:
    from ingot.stages.model.calibration.journal import Journal

    written(tmp_path)
    assert Journal(tmp_path, "another").resume() == (0, None)


@pytest.mark.parametrize("name", ["step-0.safetensors", "states-1.safetensors", "walk.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_any_file_starts_from_nothing(name: str, damage: str, tmp_path: Path) -> None:
    from ingot.stages.model.calibration.journal import Journal

    written(tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[-2] ^= 255
        path.write_bytes(data)
    assert Journal(tmp_path, "print").resume() == (0, None)
