"""Reports gathered from a graph and how its nodes ended."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import StageError
from ingot.artifacts.manifest import Action, Artifact
from ingot.artifacts.schema import param
from ingot.pipeline.data import BUNDLED_ORIGIN
from ingot.pipeline.graph import GateRule, Graph, Leaf, Node
from ingot.pipeline.outcome import Ending, NodeResult, Outcome
from ingot.pipeline.report import collect

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from ingot.artifacts.store import Store

INPUTS = {
    "load": {},
    "reference": {"model": "load"},
    "export@reference": {"model": "load"},
    "quantize@cpu": {"model": "load"},
    "export@cpu": {"model": "quantize@cpu"},
    "quality@cpu": {"artifact": "export@cpu", "reference": "reference"},
    "cost@cpu": {"artifact": "export@cpu", "reference": "export@reference"},
}
STAGES = {
    "load": "load", "reference": "validate.reference", "export@reference": "export.onnx",
    "quantize@cpu": "quantize.rtn", "export@cpu": "export.onnx", "quality@cpu": "validate.quality",
    "cost@cpu": "validate.cost",
}  # fmt: skip
LEAF = Leaf(
    "cpu", "cpu-int4", "export@cpu", "quality@cpu", "cost@cpu",
    gates=(
        GateRule("perplexity", "max_increase", "2%", "cpu.yaml:3"),
        GateRule("size", "max", "60MB", "ingot.yaml:4"),
    ),
    notes=("asked for by nobody",),
)  # fmt: skip


@dataclass(frozen=True)
class Params:
    bits: int = param(4, doc="")
    sym: bool = param(True, doc="")
    evaluation: str | None = param(None, doc="")
    ranges: tuple[int, ...] = param((1, 2), doc="")


def graph() -> Graph:
    origins = {"bits": "ingot.yaml:7", "sym": "profile", "ranges": "profile"}
    nodes = {
        name: Node(name, STAGES[name], Params(), inputs, "cpu" if "@cpu" in name else None, origins=origins)
        for name, inputs in INPUTS.items()
    }
    text = Params(evaluation="/somewhere/else/heldout.txt")
    nodes["reference"] = replace(nodes["reference"], params=text, origins={"evaluation": BUNDLED_ORIGIN})
    facts = {
        "architecture": "LlamaForCausalLM", "task": "causal-lm", "parameters": 10, "weight_bytes": 20,
        "dtype": "float32", "layers": 2,
        "source": {"uri": "hf://org/tiny", "revision": "abc", "license": "mit"},
    }  # fmt: skip
    return Graph(nodes, {"cpu": LEAF}, facts=facts)


def publish(store: Store, kind: str, files: dict[str, object], **facts: object) -> Artifact:
    with store.outbox() as outbox:
        for name, value in files.items():
            outbox.write_json(name, value)
        return outbox.publish(kind, facts)


def measured(store: Store, measurements: object) -> Artifact:
    """An artifact that reads back as those measurements."""
    metrics = {
        name: {
            "unit": m.unit, "better": m.better, "comparison": m.comparison, "reference": m.reference,
            "value": m.value, "n": m.n, "tokens": m.tokens, "documents": m.documents,
            "distribution": {side: vars(quantiles) for side, quantiles in m.distribution.items()},
        }
        for name, m in measurements.metrics.items()  # type: ignore[attr-defined]
    }  # fmt: skip
    document = {
        "schema": "ingot/measurements/v1", "kind": measurements.kind, "task": measurements.task,  # type: ignore[attr-defined]
        "metrics": metrics, "data": dict(measurements.data),  # type: ignore[attr-defined]
    }  # fmt: skip
    columns = measurements.columns or measurements.repeats  # type: ignore[attr-defined]
    return publish(store, "measurements", {"measurements.json": document, "samples.json": columns})


@pytest.fixture
def outcome(store: Store, samples: ModuleType) -> Outcome:
    """A run in which everything went well; `load` was a hit."""
    session = {
        "format": "onnx",
        "requires": {"onnxruntime": ">=1.24", "opset": 21, "domains": ["com.microsoft"]},
    }
    widths = {"int4": {"tensors": 3, "parameters": 9}, "float32": {"tensors": 1, "parameters": 1}}
    made = {
        "load": publish(store, "checkpoint", {"config.json": {}}, dtype="bfloat16", layers=2),
        "reference": publish(store, "logits", {"a.json": 1}),
        "export@reference": publish(store, "onnx", {"b.json": 2}),
        "quantize@cpu": publish(
            store,
            "quantized-checkpoint",
            {"quantization.json": {"weights": {}}},
            parameters=10,
            weights_by_width=widths,
            bits_per_weight=4.5,
        ),
        "export@cpu": publish(store, "onnx", {"ingot.json": session, "model.onnx": "graph"}),
        "quality@cpu": measured(store, samples.quality_of(samples.windows())),
        "cost@cpu": measured(store, samples.cost()),
    }
    results = {}
    for number, (name, artifact) in enumerate(made.items()):
        key = f"{number}" * 64
        observed = {
            "seconds": 1.5, "cpu_seconds": 2.5, "max_rss_bytes": 7_000_000, "tools": {"numpy": "2.4.6"},
        }  # fmt: skip
        action = Action(key, name, {}, artifact.digest, observed)
        state = Ending.HIT if name == "load" else Ending.BUILT
        notes = (f"a note of {name}",) if name in ("cost@cpu", "quantize@cpu") else ()
        results[name] = NodeResult(name, state, "its key is new", key, artifact, action, notes=notes)
    return Outcome("run-1", results, 12.0)


def without(outcome: Outcome, **states: Ending) -> Outcome:
    """The outcome with other endings for nodes; names are written with `_at_` for `@`."""
    results = dict(outcome.results)
    for name, state in states.items():
        node = name.replace("_at_", "@")
        error = StageError("out of memory") if state is Ending.FAILED else None
        results[node] = NodeResult(node, state, "out of memory" if error else "no such device", error=error)
    return replace(outcome, results=results)


def test_a_measured_target_has_the_status_of_its_gate(store: Store, outcome: Outcome) -> None:
    report = collect.target_report(store, graph(), outcome, LEAF)
    assert report.status == "pass"
    assert [check.metric for check in report.checks] == ["perplexity", "size_bytes"]
    assert [check.origin for check in report.checks] == ["cpu.yaml:3", "ingot.yaml:4"]
    assert report.explanation == ""
    assert len(report.documents) == 40
    assert [timing.metric for timing in report.timings] == ["load_ms", "prefill_ms", "decode_ms"]


def test_a_target_knows_what_it_is_made_of_and_from(store: Store, outcome: Outcome) -> None:
    report = collect.target_report(store, graph(), outcome, LEAF)
    assert report.artifact == outcome.results["export@cpu"].artifact.digest
    assert {file.path for file in report.files} == {"ingot.json", "model.onnx"}
    assert report.format == "onnx"
    assert report.requires == {"onnxruntime": ">=1.24", "opset": "21", "domains": "com.microsoft"}
    assert [(width.name, width.tensors, width.parameters) for width in report.widths] == [
        ("int4", 3, 9),
        ("float32", 1, 1),
    ]
    assert report.bits_per_weight == 4.5
    assert report.lineage == ("0" * 64, "3" * 64, "4" * 64)
    assert report.recipe == {"quantize.rtn": "bits 4, sym yes", "export.onnx": "bits 4, sym yes"}
    assert report.notes == ("asked for by nobody", "a note of quantize@cpu", "a note of cost@cpu")


@pytest.mark.parametrize("name", ["load", "quantize_at_cpu", "export_at_cpu", "quality_at_cpu", "reference"])
def test_a_failed_stage_makes_its_target_an_error(name: str, store: Store, outcome: Outcome) -> None:
    report = collect.target_report(store, graph(), without(outcome, **{name: Ending.FAILED}), LEAF)
    assert report.status == "error"
    assert report.explanation == f"{name.replace('_at_', '@')}: out of memory"


def test_a_target_that_cannot_be_measured_here_is_unverified(store: Store, outcome: Outcome) -> None:
    blocked = without(outcome, quality_at_cpu=Ending.BLOCKED, cost_at_cpu=Ending.BLOCKED)
    report = collect.target_report(store, graph(), blocked, LEAF)
    assert report.status == "unverified"
    assert report.explanation == "quality@cpu: no such device; cost@cpu: no such device"
    assert report.checks == ()
    assert report.artifact is not None


def test_what_could_be_measured_can_fail_all_the_same(
    store: Store, outcome: Outcome, samples: ModuleType
) -> None:
    bad = replace(
        outcome.results["quality@cpu"],
        artifact=measured(store, samples.quality_of(samples.windows(change=0.3))),
    )
    results = {**outcome.results, "quality@cpu": bad}
    blocked = without(replace(outcome, results=results), cost_at_cpu=Ending.BLOCKED)
    report = collect.target_report(store, graph(), blocked, LEAF)
    assert report.status == "fail"
    assert [check.metric for check in report.checks] == ["perplexity"]


def test_the_source_is_that_of_this_run(outcome: Outcome) -> None:
    model = collect.model_report(graph(), outcome)
    assert (model.name, model.uri, model.revision, model.license) == ("tiny", "hf://org/tiny", "abc", "mit")
    assert (model.parameters, model.weight_bytes, model.dtype, model.layers) == (10, 20, "bfloat16", 2)
    assert model.digest == outcome.results["load"].artifact.digest
    failed = collect.model_report(graph(), without(outcome, load=Ending.FAILED))
    assert (failed.dtype, failed.digest) == ("float32", None)


def test_nodes_tell_what_their_outputs_cost_also_when_they_were_hits(outcome: Outcome) -> None:
    nodes = {node.name: node for node in collect.node_reports(graph(), outcome)}
    assert list(nodes) == list(INPUTS)
    assert nodes["load"].state == "hit"
    assert (nodes["load"].seconds, nodes["load"].max_rss_bytes) == (1.5, 7_000_000)
    assert nodes["load"].tools == {"numpy": "2.4.6"}
    assert nodes["quantize@cpu"].params == {"bits": "4", "sym": "yes", "evaluation": "none", "ranges": "1, 2"}
    failed = {n.name: n for n in collect.node_reports(graph(), without(outcome, load=Ending.FAILED))}
    assert failed["load"].error == "out of memory"
    assert failed["load"].seconds is None


@dataclass(frozen=True)
class DistillLike:
    """Texts of the recipe and of the stage's own, a folder, and a parameter that is an input."""

    training: str | None = param(None, doc="", is_file=True)
    training_text: str | None = param(None, doc="", is_file=True)
    models: tuple[str, ...] = param((), doc="")
    log_directory: str | None = param(None, doc="")
    teacher: str = param("teacher", doc="", internal=True)
    steps: int = param(60, doc="")


def test_parameters_are_told_without_folders_of_this_machine_and_inputs_by_their_node() -> None:
    params = DistillLike(
        training="/home/me/a.txt",
        training_text="/home/me/b.txt",
        models=("/home/me/c", "org/d"),
        log_directory="/l/logs",
    )
    origins = dict.fromkeys(
        ("training", "training_text", "log_directory", "teacher", "steps"), "ingot.yaml:3"
    )
    node = Node("distill", "distill", params, {"model": "prune", "teacher": "load"}, origins=origins)
    assert collect._portable(node) == {
        "training": "a.txt", "training_text": "b.txt", "models": ["c", "org/d"], "log_directory": "logs",
        "teacher": "load", "steps": 60,
    }  # fmt: skip
    # What the whole recipe reads is said once, under what is known of its texts.
    assert collect._params(node) == "training_text b.txt, log_directory logs, teacher load, steps 60"


def test_texts_are_named_without_their_folder(outcome: Outcome) -> None:
    (text,) = collect.data_reports(graph(), outcome)
    assert (text.role, text.name, text.is_bundled) == ("evaluation", "heldout.txt", True)
    assert (text.sha256, text.documents) == ("ab" * 32, 40)


def test_a_session_file_that_is_not_json_is_corrupt(store: Store, outcome: Outcome, tmp_path: Path) -> None:
    from ingot.artifacts.errors import CorruptError

    (tmp_path / "ingot.json").write_text("{")
    broken = replace(outcome.results["export@cpu"].artifact, path=tmp_path)
    results = {**outcome.results, "export@cpu": replace(outcome.results["export@cpu"], artifact=broken)}
    with pytest.raises(CorruptError):
        collect.target_report(store, graph(), replace(outcome, results=results), LEAF)


def test_a_whole_report_can_be_rendered_and_read_back(store: Store, outcome: Outcome) -> None:
    from ingot.pipeline.report.model import RunReport
    from ingot.pipeline.report.publish import render_all
    from ingot.pipeline.report.record import read_json

    report = RunReport(
        "run-1", "0.1.0", "2026-11-21T09:12:33.123Z", 12.0, "ingot run",
        collect.model_report(graph(), outcome),
        {"cpu": collect.target_report(store, graph(), outcome, LEAF)}, collect.node_reports(graph(), outcome),
        collect.data_reports(graph(), outcome),
    )  # fmt: skip
    forms = render_all(report)
    assert read_json(forms["gate.json"]) == report
    assert json.loads(forms["gate.json"])["verdict"] == "pass"
