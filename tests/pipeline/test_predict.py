"""Predictions: from past runs like the node's, scaled to its work; else what the stage states."""

from __future__ import annotations

import statistics
from dataclasses import MISSING, dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts import schema
from ingot.artifacts.manifest import Action
from ingot.pipeline.graph import Graph, Node
from ingot.pipeline.makespan import makespan
from ingot.pipeline.predict import NEWEST, Prediction, Predictor
from ingot.stages import base
from ingot.stages.base import Estimate, Work
from ingot.stages.estimates import rounding, table
from ingot.targets.host import Host

if TYPE_CHECKING:
    from pathlib import Path

HOST = Host("linux", "x86_64", "a processor", ("avx2",), 4, 64 << 30)
FACTS = {"parameters": 1_000_000, "weight_bytes": 2_000_000}
LOAD = Node("load", "load", base.get("load").params(model="m"))
QUANTIZE = Node("quantize@a", "quantize.rtn", base.get("quantize.rtn").params(), {"model": "load"})


@dataclass(frozen=True)
class Past:
    """A history with these actions, newest first."""

    actions: tuple[Action, ...] = ()

    def of_stage(self, stage: str) -> tuple[Action, ...]:
        return tuple(action for action in self.actions if action.preimage["stage"] == stage)


def predict(node: Node = QUANTIZE, *past: Action, **facts: int) -> Prediction:
    """The prediction for a node that takes what `load` makes, with that history."""
    graph = Graph({"load": LOAD, node.name: node}, {}, facts={**FACTS, **facts})
    predictor = Predictor(graph, lambda: Past(past), HOST)  # type: ignore[arg-type,return-value]
    predictor.predict(LOAD)
    return predictor.predict(node)


def done(node: Node = QUANTIZE, times: float = 1.0, host: Host = HOST, **facts: int) -> Action:
    """The record of an execution that took ``times`` as much of everything as was stated."""
    stated = predict(node, **facts)
    observed: dict[str, Any] = {name: value * times for name, value in stated.stated.items()}
    preimage = {"stage": node.stage, "params": schema.to_plain(node.params)}
    return Action("k", node.name, preimage, "o", {**observed, **stated.record(), "host": host.fingerprint()})


def test_a_window_beyond_the_context_takes_what_the_context_does() -> None:
    kind = base.get("quantize.gptq").params
    found = {
        window: predict(
            Node("gptq@a", "quantize.gptq", kind(calibration="text", window=window), {"model": "load"}),
            context=512,
        )
        for window in (256, 512, 100_000)
    }
    assert found[256].cpu_seconds < found[512].cpu_seconds
    assert found[100_000] == found[512]


def test_without_a_past_run_the_stage_states_its_own_estimate() -> None:
    found = predict()
    stated = rounding.rounding(QUANTIZE.params, found.work)
    assert (found.runs, found.basis) == (0, "estimated")
    assert (found.cpu_seconds, found.output_bytes) == (stated.cpu_seconds, stated.output_bytes)
    assert (found.held_bytes, found.max_rss_bytes) == (
        stated.memory_bytes, stated.memory_bytes + stated.mapped_bytes,
    )  # fmt: skip


def test_the_same_work_again_is_predicted_to_take_what_it_took() -> None:
    found = predict(QUANTIZE, done(times=3.0))
    for name, value in found.stated.items():
        assert getattr(found, name) == pytest.approx(3 * value, abs=1)
    assert (found.runs, found.basis) == (1, "from 1 run")


def test_other_work_is_scaled_as_the_stages_estimate_grows() -> None:
    small = done(times=2.0)
    found = predict(QUANTIZE, small, parameters=1_000_000_000, weight_bytes=2_000_000_000)
    stated = predict(QUANTIZE, parameters=1_000_000_000, weight_bytes=2_000_000_000)
    assert found.cpu_seconds == pytest.approx(2 * stated.cpu_seconds)
    assert found.cpu_seconds > 100 * predict(QUANTIZE, small).cpu_seconds


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=NEWEST))
def test_of_several_runs_the_median_counts(times: list[float]) -> None:
    found = predict(QUANTIZE, *(done(times=each) for each in times))
    assert found.runs == len(times)
    assert found.cpu_seconds == pytest.approx(statistics.median(times) * found.stated["cpu_seconds"])


def test_only_the_newest_runs_count() -> None:
    past = [*(done(times=2.0) for _ in range(NEWEST)), *(done(times=90.0) for _ in range(2 * NEWEST))]
    found = predict(QUANTIZE, *past)
    assert found.runs == NEWEST
    assert found.cpu_seconds == pytest.approx(2.0 * found.stated["cpu_seconds"])


def test_a_nodes_own_runs_count_before_equal_ones_and_those_before_the_rest() -> None:
    own = done(times=2.0)
    equal = done(replace(QUANTIZE, name="quantize@b"), times=3.0)
    other = replace(QUANTIZE, name="quantize@c", params=base.get("quantize.rtn").params(bits=2))
    rest = done(other, times=5.0)

    def factor(*past: Action) -> float:
        found = predict(QUANTIZE, *past)
        return found.cpu_seconds / found.stated["cpu_seconds"]

    assert factor(rest, equal, own) == pytest.approx(2.0)
    assert factor(rest, equal) == pytest.approx(3.0)
    assert factor(rest) == pytest.approx(5.0)


def test_times_count_from_this_machine_and_memory_from_any() -> None:
    elsewhere = replace(HOST, processor="a faster one")
    found = predict(QUANTIZE, done(times=7.0, host=elsewhere), done(times=3.0))
    assert found.seconds == pytest.approx(3.0 * found.stated["seconds"])
    assert found.held_bytes == pytest.approx(5.0 * found.stated["held_bytes"], rel=1e-6)
    only = predict(QUANTIZE, done(times=7.0, host=elsewhere))
    assert only.seconds == pytest.approx(7.0 * only.stated["seconds"])


def test_records_without_a_stated_cost_and_with_none_observed_are_passed_over() -> None:
    old = Action("k", QUANTIZE.name, {"stage": QUANTIZE.stage, "params": {}}, "o", {"seconds": 99.0})
    unseen = done(times=2.0)
    unseen = replace(unseen, observed={**unseen.observed, "held_bytes": 0})
    assert predict(QUANTIZE, old).runs == 0
    found = predict(QUANTIZE, unseen)
    assert found.held_bytes == found.stated["held_bytes"]
    assert found.seconds == pytest.approx(2 * found.stated["seconds"])


def test_what_a_node_makes_is_what_the_next_one_works_on() -> None:
    export = Node("export@a", "export.onnx", base.get("export.onnx").params(), {"model": "quantize@a"})
    graph = Graph({"load": LOAD, "quantize@a": QUANTIZE, "export@a": export}, {}, facts=FACTS)
    predictor = Predictor(graph, lambda: Past(), HOST)  # type: ignore[arg-type,return-value]
    predictor.predict(LOAD)
    made = predictor.predict(QUANTIZE)
    taken = predictor.predict(export)
    assert taken.work.inputs == {"model": ("quantized-checkpoint", made.output_bytes)}
    predictor.cached(QUANTIZE, {"parameters": 7}, 123)
    again = predictor.predict(export)
    assert again.work.inputs == {"model": ("quantized-checkpoint", 123)}
    assert again.work.parameters == 7


def test_tokens_come_from_the_text_and_from_what_is_measured_against(tmp_path: Path) -> None:
    text = tmp_path / "held-out.txt"
    text.write_text("word" * 1000)
    params = base.get("validate.reference").params(evaluation=str(text))
    reference = Node("reference", "validate.reference", params, {"model": "load"})
    artifact = Node("export@a", "export.onnx", base.get("export.onnx").params(), {"model": "load"})
    quality = Node(
        "quality@a", "validate.quality", base.get("validate.quality").params(),
        {"artifact": "export@a", "reference": "reference"},
    )  # fmt: skip
    nodes = {node.name: node for node in (LOAD, reference, artifact, quality)}

    def tokens(nodes: dict[str, Node]) -> list[int]:
        predictor = Predictor(Graph(nodes, {}, facts=FACTS), lambda: Past(), HOST)  # type: ignore[arg-type,return-value]
        return [predictor.predict(node).work.tokens for node in nodes.values()]

    assert tokens(nodes) == [0, 1000, 0, 1000]
    nodes["reference"] = replace(reference, params=replace(params, max_tokens=300))
    assert tokens(nodes) == [0, 300, 0, 300]


# What stages ask for that no parameter asks for by itself.
CHOSEN = {
    "prune.layers": {"count": 1},
    "prune.structured": {"ffn": 0.5},
    "share.layers": {"every": 2},
}


@pytest.mark.parametrize("name", sorted(base.BUILTIN))
def test_every_built_in_stage_states_an_estimate_that_grows_with_the_model(name: str) -> None:
    stage = base.get(name)
    assert name in table.TABLE or stage.estimate is not None
    values = {
        field: ("x",) if schema.takes_many(stage.params, field) else "x"
        for field, kept in schema.fields(stage.params).items()
        if kept.default is MISSING or field in ("training_text", "calibration")
    }
    values |= CHOSEN.get(name, {})
    inputs = {each: (kinds[0], 1_000_000) for each, kinds in stage.inputs.items()}
    large = {each: (kind, 1000 * size) for each, (kind, size) in inputs.items()}
    few = table.estimate(stage, stage.params(**values), Work(10**6, 10**6, 1000, inputs, 2))
    many = table.estimate(stage, stage.params(**values), Work(10**9, 10**9, 1000, large, 2))
    assert many.cpu_seconds > few.cpu_seconds > 0
    assert many.output_bytes >= few.output_bytes > 0
    assert many.memory_bytes >= few.memory_bytes > 0


def test_a_stage_of_another_package_may_state_its_own_estimate() -> None:
    def mine(_params: object, work: Work) -> Estimate:
        return Estimate(2.0 * work.parameters, 3, 4)

    stage = replace(base.get("quantize.rtn"), name="mine", estimate=mine)
    assert table.estimate(stage, None, Work(parameters=5)) == Estimate(10.0, 3, 4)
    assert table.estimate(replace(stage, estimate=None), None, Work(5)).cpu_seconds > 0


def test_nodes_run_beside_one_another_where_cores_allow() -> None:
    seconds = {"a": 2.0, "b": 3.0, "c": 4.0, "d": 1.0}
    inputs = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
    assert makespan(seconds, inputs, set(), 2) == 2 + 4 + 1
    assert makespan(seconds, inputs, set(), 1) == 10
    assert makespan(seconds, inputs, {"c"}, 2) == 10, "nothing runs beside c"
    assert makespan({}, {}, set(), 2) == 0
    assert makespan({"b": 3.0}, {"b": ("a",)}, set(), 2) == 3, "a is cached"


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.integers(1, 4), st.data())
def test_a_run_takes_no_less_than_its_longest_chain_and_no_more_than_all_of_it(
    costs: list[float], cores: int, data: st.DataObject
) -> None:
    names = [f"n{index}" for index in range(len(costs))]
    inputs = {
        name: tuple(
            data.draw(st.lists(st.sampled_from(names[:index]), max_size=2, unique=True)) if index else []
        )
        for index, name in enumerate(names)
    }
    seconds = dict(zip(names, costs, strict=True))
    chain: dict[str, float] = {}
    for name in names:
        chain[name] = seconds[name] + max((chain[each] for each in inputs[name]), default=0.0)
    alone = data.draw(st.sets(st.sampled_from(names)))
    found = makespan(seconds, inputs, alone, cores)
    assert max(max(chain.values()), sum(costs) / cores) - 1e-6 <= found <= sum(costs) + 1e-6
