"""The gate on real pairs and on simulated ones: never a false alarm, never a regression let through.

The pairs are sums by document of the bundled model's artifacts, as tests/bench/bench_gate.py recorded them.
"""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

TESTS = Path(__file__).parents[1]
# Fewer bootstrap samples than the gate takes, for time; its bounds move by less than they are wide.
FAST = 1_000


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The benchmark, whose judging and drawing the tests share."""
    spec = importlib.util.spec_from_file_location("ingot_bench_gate", TESTS / "bench" / "bench_gate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pairs() -> dict[str, dict[str, list[float]]]:
    """Real pairs by name: tokens, reference and value by document."""
    return json.loads((TESTS / "data" / "gate_pairs.json").read_text())


def change(pair: dict[str, list[float]]) -> float:
    """The relative change of perplexity, by its definition."""
    return math.expm1((sum(pair["value"]) - sum(pair["reference"])) / sum(pair["tokens"]))


def test_an_artifact_measured_again_never_fails_against_itself(bench, pairs) -> None:
    assert change(pairs["itself"]) == 0
    assert bench.resampled(pairs["itself"], 200, resamples=FAST) == {"pass": 200}
    # Not even where nothing at all may be lost.
    assert bench.verdict(pairs["itself"], limit="0%") == "pass"


@pytest.mark.parametrize("name", ["plain", "int8"])
def test_what_costs_next_to_nothing_never_fails(bench, pairs, name: str) -> None:
    assert abs(change(pairs[name])) < 0.001
    assert bench.resampled(pairs[name], 200, resamples=FAST)["fail"] == 0


def test_a_model_rounded_until_it_costs_two_percent_never_passes(bench, pairs) -> None:
    assert change(pairs["coarse"]) == pytest.approx(0.02, abs=0.004)
    assert bench.verdict(pairs["coarse"]) == "fail"
    assert bench.resampled(pairs["coarse"], 200, resamples=FAST)["pass"] == 0


@pytest.mark.parametrize(("true", "wrong"), [(0.0, "fail"), (0.02, "pass")])
def test_of_simulated_runs_at_most_one_in_a_hundred_is_judged_wrongly(bench, true: float, wrong: str) -> None:
    trials = 100
    found = bench.simulated(true, trials, resamples=200)
    assert found[wrong] <= trials / 100
    # Nor does it keep silent: with so many documents nearly all are decided.
    assert found["inconclusive"] <= trials / 20
