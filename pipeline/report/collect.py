"""Gathers a report from what is known after a run: the graph, how each node ended, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...artifacts import schema
from ...artifacts.errors import CorruptError
from .. import measurements as measured
from ..data import BUNDLED_ORIGIN, EVALUATION, ROLES, texts_of
from ..outcome import Ending
from ..rules import read_bound
from ..steps import LOAD
from ..verdicts import judge
from .blame import with_steps
from .documents import document_deltas, spreads, timings
from .model import (
    DataReport,
    Expected,
    FileReport,
    ModelReport,
    NodeReport,
    SourceReport,
    TargetReport,
    Width,
)
from .verified import verified
from .weights import layer_errors, tensor_evidence, weight_groups, worst_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...artifacts.manifest import Artifact
    from ...artifacts.store import Store
    from ..graph import Graph, Leaf, Node
    from ..measurements import Measurements
    from ..outcome import NodeResult, Outcome
    from ..predict import Prediction

SESSION = "ingot.json"
# The library that reads an adapter, whose files say the rest.
PEFT = "peft"


def target_reports(store: Store, graph: Graph, outcome: Outcome) -> dict[str, TargetReport]:
    """Every target judged, by name, with what each of its stages cost."""
    judged = {name: target_report(store, graph, outcome, leaf) for name, leaf in graph.targets.items()}
    return with_steps(graph, outcome, judged)


def target_report(store: Store, graph: Graph, outcome: Outcome, leaf: Leaf) -> TargetReport:
    """Judges one target and says all of it. Where a stage failed the status is `error`; where nothing failed
    but something could not be done on this machine, `unverified`.
    """
    results, branch = outcome.results, graph.ancestors(*leaf.nodes)
    artifact = results[leaf.artifact].artifact
    quality, cost = (_measurements(results[name].artifact) for name in (leaf.quality, leaf.cost))
    emulated = _measurements(results[leaf.emulated].artifact) if leaf.emulated else None
    verdict = judge(store, [read_bound(rule) for rule in leaf.gates], quality, cost)
    unfinished = [results[name] for name in branch if not results[name].has_output]
    failed = [result for result in unfinished if result.state is Ending.FAILED]
    # What was measured is judged, also when something else could not be.
    checks = tuple(check for check in verdict.checks if not unfinished or check.metric in verdict.metrics)
    is_broken = any(check.status == "fail" for check in checks)
    status = (
        "error" if failed else verdict.status if not unfinished else "fail" if is_broken else "unverified"
    )
    session = _session(artifact)
    lineage = [results[name] for name in graph.ancestors(leaf.artifact)]
    return TargetReport(
        name=leaf.target,
        status=status,
        profile=leaf.profile,
        metrics=verdict.metrics,
        checks=checks,
        explanation="; ".join(f"{result.node}: {result.reason}" for result in failed or unfinished),
        artifact=artifact.digest if artifact else None,
        files=_files(artifact),
        format=str(session.get("format", "")),
        requires={name: _text(value) for name, value in dict(session.get("requires", {})).items()},
        recipe=_stages([graph.nodes[result.node] for result in lineage if result.node != "load"]),
        widths=_widths(lineage),
        bits_per_weight=_fact(lineage, "bits_per_weight"),
        timings=timings(cost) if cost else (),
        documents=document_deltas(quality) if quality else (),
        lineage=tuple(result.key for result in lineage if result.key),
        sources=tuple(source_reports(graph, lineage)),
        weights=weight_groups(lineage),
        worst_tensors=worst_tensors(lineage),
        layer_errors=layer_errors(lineage),
        evidence=tensor_evidence(lineage),
        spreads=spreads(cost) if cost else (),
        sweep=cost.sweep if cost else (),
        golden=quality.golden if quality else (),
        notes=(*leaf.notes, *(note for name in branch for note in results[name].notes)),
        cell_of=leaf.cell_of,
        cell=leaf.cell,
        kind=artifact.kind if artifact else "",
        verified=verified(graph, leaf, results),
        emulated=emulated.emulated if emulated else (),
        parameters=None if (count := _fact(lineage, "parameters")) is None else int(count),
    )


def source_reports(graph: Graph, lineage: Sequence[NodeResult]) -> Iterator[SourceReport]:
    """What the loaded nodes of a lineage are: where from, under which licence, in which artifact."""
    for result in lineage:
        node = graph.nodes[result.node]
        if node.inputs:
            continue
        known = graph.sources.get(node.name, graph.facts if node.name == LOAD else {})
        source = _source(known)
        named = next((str(value) for value in vars(node.params).values() if isinstance(value, str)), "")
        digest = result.artifact.digest if result.artifact else None
        uri = str(source.get("uri") or Path(named).name)
        yield SourceReport(node.name, uri, source.get("revision"), source.get("license"), digest)


def _source(facts: Mapping[str, object]) -> Mapping[str, Any]:
    """Where a checkpoint is from: its address, revision and licence, as far as they are known."""
    found = facts.get("source")
    return found if isinstance(found, Mapping) else {}


def model_report(graph: Graph, outcome: Outcome) -> ModelReport:
    """The source: from the loaded checkpoint, or from the headers where loading failed."""
    loaded = outcome.results["load"].artifact
    facts: Mapping[str, Any] = {**graph.facts, **(loaded.facts if loaded else {})}
    # Of this run's source, not of whichever checkpoint of equal content was loaded first.
    source = _source(graph.facts)
    uri = str(source.get("uri", ""))
    numbers = {name: facts.get(name) for name in ("layers", "hidden", "vocabulary", "context")}
    return ModelReport(
        name=Path(uri.partition("@")[0]).name or uri,
        uri=uri,
        architecture=str(facts["architecture"]),
        task=str(facts["task"]),
        parameters=int(facts["parameters"]),
        weight_bytes=int(facts["weight_bytes"]),
        dtype=str(facts.get("dtype", "")),
        revision=source.get("revision"),
        license=source.get("license"),
        digest=loaded.digest if loaded else None,
        **numbers,
    )


def node_reports(
    graph: Graph, outcome: Outcome, expected: Mapping[str, Prediction] = MappingProxyType({})
) -> tuple[NodeReport, ...]:
    """Every node and what became of it; a hit tells what its output cost when it was made.

    expected: what the plan predicted of those that had to run.
    """
    return tuple(
        _node(node, outcome.results[node.name], expected.get(node.name)) for node in graph.nodes.values()
    )


def data_reports(graph: Graph, outcome: Outcome) -> tuple[DataReport, ...]:
    """The texts that stages read, by role; the evaluation text with its digest and counts."""
    found: dict[str, tuple[DataReport, ...]] = {}
    for node in graph.nodes.values():
        for role in ROLES:
            texts = texts_of(node.params, role)
            if texts and role not in found:
                is_bundled = node.origins.get(role) == BUNDLED_ORIGIN
                found[role] = tuple(DataReport(role, text.name, is_bundled=is_bundled) for text in texts)
    for leaf in graph.targets.values():
        quality = _measurements(outcome.results[leaf.quality].artifact)
        if quality and quality.metrics:
            metric = next(iter(quality.metrics.values()))
            (known,) = found.get(EVALUATION, (DataReport(EVALUATION, ""),))
            digest = quality.data.get(EVALUATION)
            found[EVALUATION] = (DataReport(
                EVALUATION, known.name, str(digest) if digest else None,
                metric.documents, metric.tokens, known.is_bundled, _pairs(quality),
            ),)  # fmt: skip
    return tuple(report for reports in found.values() for report in reports)


def _pairs(quality: Measurements) -> str:
    """How sources and targets came about, and how many of them are not whole."""
    rule, cut = quality.data.get("pairs", ""), quality.data.get("cut", 0)
    return f"{rule}; {cut} lost their end to the window" if cut else str(rule)


def _measurements(artifact: Artifact | None) -> Measurements | None:
    return measured.read(artifact.path) if artifact else None


def _session(artifact: Artifact | None) -> Mapping[str, Any]:
    """What the exporter says of how the artifact is run; empty for kinds that need no saying."""
    if artifact is not None and artifact.kind == "adapter":
        return {"format": PEFT}
    if artifact is None or not (artifact.path / SESSION).is_file():
        return {}
    try:
        value = json.loads((artifact.path / SESSION).read_text("utf-8"))
    except ValueError as error:
        raise CorruptError(f"not JSON: {error}", where=str(artifact.path / SESSION)) from None
    return value if isinstance(value, dict) else {}


def _files(artifact: Artifact | None) -> tuple[FileReport, ...]:
    files = artifact.record.files if artifact else ()
    return tuple(FileReport(file.path, file.size, file.sha256) for file in files)


def _widths(lineage: list[NodeResult]) -> tuple[Width, ...]:
    widths = _fact(lineage, "weights_by_width") or {}
    return tuple(Width(name, int(w["tensors"]), int(w["parameters"])) for name, w in widths.items())


def _fact(lineage: list[NodeResult], name: str) -> Any:
    """A fact of the artifact, or of the nearest one before it that states it."""
    stated = (result.artifact.facts for result in reversed(lineage) if result.artifact)
    return next((facts[name] for facts in stated if name in facts), None)


def _node(node: Node, result: NodeResult, expected: Prediction | None) -> NodeReport:
    observed: Mapping[str, Any] = result.action.observed if result.action else {}
    return NodeReport(
        name=node.name,
        stage=node.stage,
        inputs=node.inputs,
        state=str(result.state),
        reason=result.reason,
        seconds=observed.get("seconds", result.seconds or None),
        cpu_seconds=observed.get("cpu_seconds", result.cpu_seconds or None),
        max_rss_bytes=observed.get("max_rss_bytes", result.max_rss_bytes or None),
        output_bytes=result.artifact.record.size_bytes if result.artifact else None,
        key=result.key,
        artifact=result.artifact.digest if result.artifact else None,
        target=node.target,
        params={name: _text(value) for name, value in _portable(node).items()},
        tools={name: str(version) for name, version in dict(observed.get("tools", {})).items()},
        notes=result.notes,
        error=str(result.error) if result.error else None,
        expected=_expected(expected) if expected and result.state is not Ending.HIT else None,
        exit_code=result.error.exit_code if result.error else 0,
    )


def _expected(prediction: Prediction) -> Expected:
    return Expected(
        prediction.seconds,
        prediction.cpu_seconds,
        prediction.max_rss_bytes,
        prediction.output_bytes,
        prediction.runs,
    )


def _stages(nodes: Sequence[Node]) -> dict[str, str]:
    """Stage → the parameters that somebody set; where a stage stands twice, the node's name tells which."""
    stages = [node.stage for node in nodes]
    return {
        node.stage if stages.count(node.stage) == 1 else f"{node.stage} ({node.name})": _params(node)
        for node in nodes
    }


def _params(node: Node) -> str:
    """The parameters that somebody set, `bits 4, group_size 32`, save lists, which are long, and the recipe's
    texts, which the report names once.
    """
    fields = schema.fields(type(node.params))
    named = (
        (name, value)
        for name, value in _portable(node).items()
        if name in node.origins
        and name not in ROLES
        and not isinstance(value, list)
        and (name in node.inputs or not fields[name].metadata.get("internal"))
    )
    return ", ".join(f"{name} {_text(value)}" for name, value in named)


def _portable(node: Node) -> dict[str, object]:
    """A node's parameters as another machine understands them: paths by name alone, inputs by their node."""
    found: dict[str, object] = {}
    for name, value in schema.to_plain(node.params).items():
        if name in node.inputs and value is not None:
            found[name] = node.inputs[name]
        else:
            found[name] = [_unplaced(each) for each in value] if isinstance(value, list) else _unplaced(value)
    return found


def _unplaced(value: object) -> object:
    """The name of what a path of this machine leads to; anything else as it is."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
