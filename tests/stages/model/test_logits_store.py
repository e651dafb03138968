"""Logits on disk: what is written is read back, by numpy alone too, and damage is noticed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ingot.artifacts.errors import CorruptError
from ingot.stages.model import logits_store
from ingot.stages.model.logits import TopK
from ingot.stages.model.logits_store import Logits, Rows
from ingot.stages.model.tokens import windows

if TYPE_CHECKING:
    from pathlib import Path

    from ingot.artifacts.store import Store


def sample() -> Logits:
    random = np.random.default_rng(0)
    found = windows([[1, 2, 3, 4, 5], [6, 7, 8]], 3)
    count = found.tokens - found.count
    top = TopK(
        random.integers(0, 9, (count, 2), dtype=np.int32),
        random.standard_normal((count, 2), dtype=np.float32),
        random.random(count, dtype=np.float32),
    )
    parity = Rows(np.arange(5), np.array([3, 2]), random.standard_normal((5, 9), dtype=np.float32))
    nll = random.random(count, dtype=np.float32)
    return Logits("causal-lm", 3, 9, "ab" * 32, found, parity, nll=nll, top=top)


def written(store: Store, value: Logits, target: Path) -> Path:
    with store.outbox() as outbox:
        logits_store.write(value, outbox)
        artifact = outbox.publish("logits", value.facts())
    shutil.copytree(artifact.path, target)
    for path in (target, *target.iterdir()):
        path.chmod(0o755)
    return target


def test_what_is_written_is_read_back(store: Store, tmp_path: Path) -> None:
    value = sample()
    found = logits_store.read(written(store, value, tmp_path / "logits"))
    assert found.facts() == value.facts()
    assert found.top is not None
    assert value.top is not None
    for ours, theirs in (
        (found.windows.ids, value.windows.ids),
        (found.windows.lengths, value.windows.lengths),
        (found.windows.document, value.windows.document),
        (found.nll, value.nll),
        (found.top.ids, value.top.ids),
        (found.top.log_probabilities, value.top.log_probabilities),
        (found.top.tail, value.top.tail),
        (found.parity.outputs, value.parity.outputs),
    ):
        np.testing.assert_array_equal(ours, theirs)
    ids, outputs = found.parity.row(1)
    assert ids.tolist() == [3, 4]
    np.testing.assert_array_equal(outputs, value.parity.outputs[3:])


def test_an_encoders_hidden_states_stand_in_place_of_predictions(store: Store, tmp_path: Path) -> None:
    value = sample()
    hidden = np.ones((value.windows.tokens, 4), np.float32)
    encoder = replace(value, task="encoder", nll=None, top=None, hidden=hidden)
    directory = written(store, encoder, tmp_path / "logits")
    found = logits_store.read(directory)
    assert found.nll is found.top is None
    np.testing.assert_array_equal(found.hidden, hidden)
    assert not (directory / "nll.npy").exists()


def test_equal_logits_have_equal_bytes(store: Store) -> None:
    digests = set()
    for _ in range(2):
        with store.outbox() as outbox:
            logits_store.write(sample(), outbox)
            digests.add(outbox.publish("logits", sample().facts()).digest)
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["nll", "top_ids", "tail", "document", "ids"])
def test_an_array_of_another_length_is_refused_by_name(store: Store, tmp_path: Path, name: str) -> None:
    directory = written(store, sample(), tmp_path / "logits")
    array = np.load(directory / f"{name}.npy")
    np.save(directory / f"{name}.npy", array[:-1])
    with pytest.raises(CorruptError, match=f"{name} has {len(array) - 1} entries, not {len(array)}"):
        logits_store.read(directory)


@pytest.mark.parametrize("change", [{"schema": "ingot/logits/v9"}, {"windows": 7}])
def test_a_description_that_does_not_fit_is_refused(
    store: Store, tmp_path: Path, change: dict[str, object]
) -> None:
    directory = written(store, sample(), tmp_path / "logits")
    about = json.loads((directory / "logits.json").read_text())
    (directory / "logits.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(CorruptError):
        logits_store.read(directory)


def test_a_truncated_array_is_refused(store: Store, tmp_path: Path) -> None:
    directory = written(store, sample(), tmp_path / "logits")
    whole = (directory / "nll.npy").read_bytes()
    (directory / "nll.npy").write_bytes(whole[:-3])
    with pytest.raises(CorruptError, match="cannot be read"):
        logits_store.read(directory)
