"""The sweep of `validate.cost`: its cells, its turns, what it leaves out, and what it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import InputError, RecipeError
from ingot.stages.validate import cost_side
from ingot.stages.validate.cost import CostParams
from ingot.stages.validate.sweep import STEPS, Cell, cells, longest, measure_sweep

from .conftest import measured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.artifacts.manifest import Artifact

    Make = Callable[..., Artifact]


class Clockwork:
    """A side whose times follow from what it is asked: a prefill takes batch · tokens ms, a step batch ms."""

    asked: list[tuple[str, str, int, int]]
    contexts: dict[str, int]
    task = "causal-lm"

    def __init__(self, directory: str, threads: int, device: str = "cpu") -> None:
        self.name = directory

    def ask(self, what: str, tokens: int = 0, batch: int = 1) -> dict[str, Any]:
        return {"task": self.task, "context": self.contexts.get(self.name, 256)}

    def ask_ms(self, what: str, tokens: int, batch: int = 1) -> list[float]:
        self.asked.append((self.name, what, batch, tokens))
        return [float(batch * tokens)] if what == "prefill" else [float(batch)] * tokens

    def close(self) -> None:
        self.asked.append((self.name, "close", 0, 0))


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> type[Clockwork]:
    class Fresh(Clockwork):
        asked: list[tuple[str, str, int, int]] = []  # noqa: RUF012 - one list a test is meant
        contexts: dict[str, int] = {}  # noqa: RUF012

    monkeypatch.setattr(cost_side, "SideProcess", Fresh)
    return Fresh


def swept(directories: list[str], wanted: tuple[Cell, ...], passes: int = 2) -> Any:
    named = {name: name for name in directories}
    return measure_sweep(named, wanted, passes=passes, threads=1, progress=lambda _done, _total: None)


def test_cells_are_every_batch_with_every_sequence_ascending_and_once() -> None:
    assert cells([4, 1, 4], [128, 32]) == (Cell(1, 32), Cell(1, 128), Cell(4, 32), Cell(4, 128))


def test_models_take_turns_in_each_cell_after_a_warm_up_that_does_not_count(
    clockwork: type[Clockwork],
) -> None:
    found = swept(["A", "B"], (Cell(2, 10),))
    both = [("prefill", 2, 10), ("decode", 2, STEPS)]
    turns = [(name, *what) for name in "BAABBA" for what in both]
    assert clockwork.asked == [*turns, ("A", "close", 0, 0), ("B", "close", 0, 0)]
    assert found.times[Cell(2, 10)]["A"] == {"prefill_ms": [20.0] * 2, "decode_ms": [2.0] * 2 * STEPS}


def test_quantiles_are_stated_for_every_cell_and_model(clockwork: type[Clockwork]) -> None:
    first, second = swept(["A"], cells([1, 3], [16])).to_json()
    assert (first["batch"], second["batch"], second["sequence"]) == (1, 3, 16)
    assert second["sides"]["A"]["prefill_ms"] == {"p50": 48.0, "p95": 48.0, "p99": 48.0, "n": 2}
    assert second["sides"]["A"]["decode_ms"]["n"] == 2 * STEPS


def test_an_encoder_has_no_steps_and_its_whole_context(clockwork: type[Clockwork]) -> None:
    clockwork.task = "encoder"
    found = swept(["A"], cells([1], [256]))
    assert [what for _, what, _, _ in clockwork.asked] == ["prefill"] * 3 + ["close"]
    assert "decode_ms" not in found.to_json()[0]["sides"]["A"]
    assert (longest("encoder", 256), longest("causal-lm", 256)) == (256, 256 - STEPS)


def test_what_the_shortest_context_has_no_room_for_is_left_out_and_said(clockwork: type[Clockwork]) -> None:
    clockwork.contexts["B"] = 40
    found = swept(["A", "B"], cells([1], [32, 33]))
    assert list(found.times) == [Cell(1, 32)]
    assert found.left_out == (Cell(1, 33),)
    with pytest.raises(InputError, match="the longest is 32 tokens"):
        swept(["A", "B"], cells([1], [33]))


def test_a_sweep_is_off_unless_an_axis_is_named_and_the_other_has_a_default() -> None:
    assert CostParams().sweep == ()
    assert CostParams(sweep_batch=(2, 1)).sweep == (Cell(1, 128), Cell(2, 128))
    assert CostParams(sweep_sequence=(16,)).sweep == (Cell(1, 16),)
    with pytest.raises(RecipeError, match=r"cost\.sweep_batch: 0 is below 1"):
        CostParams(sweep_batch=(1, 0))


def test_the_stage_writes_both_sides_and_notes_what_did_not_fit(
    run_stage: Make, exported: Make, tiny_checkpoint: Callable[..., Path]
) -> None:
    source = run_stage("load", {}, model=str(tiny_checkpoint("llama")))
    inputs = {"artifact": exported("llama", 4), "reference": exported("llama"), "source": source}
    notes: list[str] = []
    found, samples = measured(
        run_stage(
            "validate.cost", inputs, notes=notes, repeats=1, passes=1, prefill_tokens=8, decode_tokens=2,
            sweep_batch=[1, 3], sweep_sequence=[8, 4096],
        )
    )  # fmt: skip
    assert [(cell["batch"], cell["sequence"]) for cell in found["sweep"]] == [(1, 8), (3, 8)]
    for cell in found["sweep"]:
        assert set(cell["sides"]) == {"reference", "value"}
        for side in cell["sides"].values():
            assert min(side["prefill_ms"]["p50"], side["decode_ms"]["p50"]) > 0
    assert any("has no room for: 4096" in note for note in notes)
    assert [len(samples["decode_step_ms"][side]) for side in ("reference", "value")] == [2, 2]
