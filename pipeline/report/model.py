"""Everything that a report shows, as frozen values: the one source of HTML, Markdown, JUnit XML and JSON.

`gate.json` is a :class:`RunReport` written down (see `record.py`), so any form can be made again later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from ...artifacts.errors import IngotError
from ..gate import Check, MetricResult, Status, exit_code, worst
from ..measurements import Emulated, Golden, Quantiles, SweepCell
from .merges import MergeReport
from .parts import LayerError, Spread, Step, TensorError, WeightGroup
from .pruned import PruneReport
from .trainings import TrainingReport

Facts = Mapping[str, str]


@dataclass(frozen=True)
class ModelReport:
    """The source model. weight_bytes: bytes of its weight files.  revision, license: None when not stated."""

    name: str
    uri: str
    architecture: str
    task: str
    parameters: int
    weight_bytes: int
    dtype: str
    layers: int | None = None
    hidden: int | None = None
    vocabulary: int | None = None
    context: int | None = None
    revision: str | None = None
    license: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class SourceReport:
    """A checkpoint or an adapter that a target is made of. node: what loaded it.  digest: of its artifact."""

    node: str
    uri: str
    revision: str | None = None
    license: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class DataReport:
    """A text that the run used.

    role: evaluation, calibration, training or selection.  pairs: how an encoder-decoder's sources and targets
    came out of it; empty for others.
    """

    role: str
    name: str
    sha256: str | None = None
    documents: int | None = None
    tokens: int | None = None
    is_bundled: bool = False
    pairs: str = ""


@dataclass(frozen=True)
class Expected:
    """What the plan predicted of a node. runs: how many past runs said so; 0: the stage's own estimate."""

    seconds: float
    cpu_seconds: float
    max_rss_bytes: int
    output_bytes: int
    runs: int


@dataclass(frozen=True)
class NodeReport:
    """One node of the graph and what became of it.

    state: hit, built, failed, blocked or skipped.  seconds, cpu_seconds, max_rss_bytes: of the execution that
    made the output, which for a hit lies in an earlier run.  tools: library → version.  expected: what the
    plan predicted, of a node that had to run.
    """

    name: str
    stage: str
    inputs: Mapping[str, str]
    state: str
    reason: str = ""
    seconds: float | None = None
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None
    output_bytes: int | None = None
    key: str | None = None
    artifact: str | None = None
    target: str | None = None
    params: Facts = field(default_factory=dict)
    tools: Facts = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str | None = None
    expected: Expected | None = None
    exit_code: int = 0


@dataclass(frozen=True)
class Width:
    """How many weights of an artifact are kept at one width, such as ``int4``."""

    name: str
    tensors: int
    parameters: int


@dataclass(frozen=True)
class FileReport:
    """A file of an artifact: path relative to it, bytes, SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Timing:
    """The repeats of a cost metric on both sides, in the metric's unit, in the order they were taken."""

    metric: str
    unit: str
    reference: tuple[float, ...]
    value: tuple[float, ...]
    quantiles: Mapping[str, Quantiles] = field(default_factory=dict)


@dataclass(frozen=True)
class DocumentDelta:
    """One evaluation document. delta: relative perplexity, or the mean cosine less one for encoders."""

    document: int
    tokens: int
    delta: float


@dataclass(frozen=True)
class TargetReport:
    """One target: its verdict, what it measured and what it is made of.

    explanation: why it is `error` or `unverified`, empty otherwise.  delivery: the directory that was
    written, None when none was.  cell_of, cell: the target that a matrix fans out, and this cell's values.
    worst_tensors: those that rounding changed most.  layer_errors: of what they give, layer by layer.
    evidence: all that was observed of each weight.  sources: all that it is made of.  sweep: its cells, whose
    sides are `reference` and `value`.  steps: the stages from the source to the artifact.
    kind: of the artifact, such as `onnx`.  verified: what was measured → where, see `verified.py`.
    emulated: what each emulated processor made of it.  parameters: of the network that was exported.
    """

    name: str
    status: Status
    profile: str
    metrics: Mapping[str, MetricResult] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    summary: str = ""
    explanation: str = ""
    delivery: str | None = None
    artifact: str | None = None
    files: tuple[FileReport, ...] = ()
    format: str = ""
    requires: Facts = field(default_factory=dict)
    recipe: Facts = field(default_factory=dict)
    widths: tuple[Width, ...] = ()
    bits_per_weight: float | None = None
    timings: tuple[Timing, ...] = ()
    documents: tuple[DocumentDelta, ...] = ()
    cell_of: str | None = None
    cell: Facts = field(default_factory=dict)
    lineage: tuple[str, ...] = ()
    sources: tuple[SourceReport, ...] = ()
    notes: tuple[str, ...] = ()
    weights: tuple[WeightGroup, ...] = ()
    worst_tensors: tuple[TensorError, ...] = ()
    layer_errors: tuple[LayerError, ...] = ()
    evidence: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    spreads: tuple[Spread, ...] = ()
    sweep: tuple[SweepCell, ...] = ()
    golden: tuple[Golden, ...] = ()
    steps: tuple[Step, ...] = ()
    kind: str = ""
    verified: Facts = field(default_factory=dict)
    emulated: tuple[Emulated, ...] = ()
    parameters: int | None = None

    @property
    def size_bytes(self) -> int:
        """The bytes of all files of the artifact."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class RunReport:
    """A run: the model, its targets in the recipe's order, the graph, and how to do it again.

    started: ISO 8601, UTC.  command: what reproduces the run.  environment: label → value of this machine.
    """

    run: str
    version: str
    started: str
    seconds: float
    command: str
    model: ModelReport
    targets: Mapping[str, TargetReport]
    nodes: tuple[NodeReport, ...] = ()
    data: tuple[DataReport, ...] = ()
    environment: Facts = field(default_factory=dict)
    merges: tuple[MergeReport, ...] = ()
    trainings: tuple[TrainingReport, ...] = ()
    prunings: tuple[PruneReport, ...] = ()
    recipe: str = ""
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Status:
        """The worst status of the targets."""
        return worst(target.status for target in self.targets.values())

    @property
    def exit_code(self) -> int:
        """What `ingot run` exits with: 0 pass, 1 fail, 3 inconclusive or unverified, 4 a stage failed.

        2 wins over all of them: a stage met bad input, or the disk refused, so it is the person's turn.
        """
        if any(node.exit_code == IngotError.exit_code for node in self.nodes):
            return IngotError.exit_code
        return exit_code(target.status for target in self.targets.values())


def summary(report: RunReport, path: str) -> dict[str, object]:
    """The object that `--json` prints; path: where the HTML report lies."""
    return {
        "run": report.run,
        "verdict": report.verdict,
        "exit_code": report.exit_code,
        "report": path,
        "targets": {name: _target_summary(target) for name, target in report.targets.items()},
    }


def _target_summary(target: TargetReport) -> dict[str, object]:
    return {
        "status": target.status,
        "delivery": target.delivery,
        "artifact": target.artifact,
        "verified": dict(target.verified),
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in target.files],
        "metrics": {name: metric_summary(metric) for name, metric in target.metrics.items()},
        **({"emulated": emulated_summary(target.emulated)} if target.emulated else {}),
    }


def emulated_summary(emulated: Iterable[Emulated]) -> dict[str, object]:
    """What emulated processors measured, by their names, as `--json` and manifests state it."""
    return {
        each.processor: {name: value for name, value in asdict(each).items() if name != "processor"}
        for each in emulated
    }


def metric_summary(metric: MetricResult) -> dict[str, object]:
    """One metric as `--json`, gate.json and manifests state it."""
    return {
        "reference": metric.reference,
        "value": metric.value,
        "delta": metric.delta,
        "low": metric.low,
        "high": metric.high,
        "n": metric.n,
        "tokens": metric.tokens,
        "documents": metric.documents,
        "unit": metric.unit,
    }
