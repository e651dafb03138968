"""`validate.quality`: an artifact, through the runtime that will run it, against the reference's
predictions.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import StageError
from ...artifacts.schema import param
from ..base import DELIVERED, RUNNABLE, Context, Result, stage
from . import plugins
from .device import DEVICE_DOC, DEVICES, FORMAT_DOC, SM_DOC, requirements, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from ...targets.runtimes.base import PairSession, Session, SessionInfo
    from ..model.logits_store import Logits
    from .scores import Comparison

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    # Which windows, and their ids [batch, length] → the logits [length, vocabulary] of each.
    Forward = Callable[[Ids, Ids], Sequence[Floats] | Floats]

Metrics = dict[str, dict[str, object]]
Samples = dict[str, list[float | None]]
# One window against the reference's, and the two sums of every added metric.
Scored = tuple["Comparison", list[tuple[float, float]]]
# What this stage's own metrics mean; a number rises when the same output would score otherwise.
VERSIONS = {"perplexity": 1, "kl_divergence": 1, "top1_agreement": 1, "cosine": 1, "parity_max_error": 1}


@dataclass(frozen=True)
class QualityParams:
    """Parameters of `validate.quality`. Windows and k are the reference's, or they could not be compared."""

    metrics: tuple[str, ...] = param(
        (), doc="metrics of installed packages, measured beside Ingot's own; for language models"
    )
    device: str = param("cpu", choices=DEVICES, doc=DEVICE_DOC)
    format: str = param("", internal=True, doc=FORMAT_DOC)
    sm: int = param(0, internal=True, doc=SM_DOC)


def sources(params: QualityParams) -> Mapping[str, Path]:
    """The files that define added metrics."""
    return plugins.sources(params.metrics)


@stage(
    "validate.quality",
    params=QualityParams,
    inputs={"artifact": (*RUNNABLE, *DELIVERED), "reference": ("logits",)},
    output="measurements",
    version=1,
    determinism="bitwise",
    tools=("numpy", "onnxruntime"),
    summary="Perplexity, KL and top-1 agreement (encoders: cosine) of an artifact against the reference",
    reads=sources,
    requires=requirements,
    versions=versions,
    any_architecture=True,
    takes_compact=True,
)
def run(context: Context[QualityParams]) -> Result:
    """Writes metrics, per-window samples and parity.

    Perplexity is exp(Σ nll / Σ tokens) over predicted tokens; KL is the mean over them of the divergence of
    the reference from the artifact, as in :func:`ingot.stages.model.logits.divergence`. Output that is not
    finite is recorded, not refused: the gate fails on it. Raises StageError when the artifact is of another
    vocabulary or task than the reference, and when a metric of another package breaks.
    """
    from ...targets.runtimes.base import PairSession
    from ...targets.runtimes.opening import open_session
    from ..model import logits_store, parity
    from . import measures

    reference = logits_store.read(context.inputs["reference"].path)
    # One thread a call: batches run side by side (see batches.py).
    session = open_session(context.inputs["artifact"].path, threads=1, device=context.params.device)
    try:
        info = session.info
        _check_comparable(reference, info)
        added = [plugins.get(name) for name in context.params.metrics]
        started = time.perf_counter()
        if isinstance(session, PairSession):
            cases = parity.measure_pairs(session, reference.parity)
            metrics, samples = _predicted(context, _of_pairs(session, reference), reference)
        else:
            cases = parity.measure(session, reference.parity)
            score = _causal if info.task == "causal-lm" else _encoder
            metrics, samples = score(context, session, reference)
        seconds = time.perf_counter() - started
        continuations = _continuations(context, session)
    finally:
        session.close()
    positions = sum(int(case["positions"]) for case in cases.values())
    unit = "hidden state" if info.task == "encoder" else "logit"
    metrics["parity_max_error"] = measures.metric(
        unit, "lower", "absolute", 0.0, parity.worst(cases), n=len(cases), tokens=positions
    )
    document = {
        "metrics": metrics,
        "parity": {
            name: {key: measures.number(value) for key, value in case.items()} for name, case in cases.items()
        },
        "golden": continuations,
        "data": {**reference.facts(), "versions": _versions(metrics, added)},
        "environment": {"runtime": info.runtime, "runtime_version": info.runtime_version},
    }
    measures.write(context.output, "quality", info.task, document, samples)
    observed = {"seconds": round(seconds, 3), "tokens_per_second": round(reference.windows.tokens / seconds)}
    return Result(facts={"measures": "quality", **reference.facts()}, observed=observed)


def _versions(metrics: Metrics, added: Iterable[plugins.Metric]) -> dict[str, int]:
    """The version of each metric's definition, which baselines pin."""
    known = {**{metric.name: metric.version for metric in added}, **VERSIONS}
    return {name: known[name] for name in metrics}


def _continuations(
    context: Context[QualityParams], session: Session | PairSession
) -> list[dict[str, object]]:
    """How the artifact goes on from the prompts that the reference went on from, one at a time.

    Alone, since the rows of a batch share the scales of dynamically quantized activations.
    """
    from ..model.tokens import load_tokenizer
    from . import golden

    rows = golden.read(context.inputs["reference"].path)
    if not rows:
        return []
    tokenizer = load_tokenizer(context.inputs["artifact"].path)
    return [golden.compare(session, tokenizer, row) for row in rows]


def _check_comparable(reference: Logits, info: SessionInfo) -> None:
    for name, expected, found in (
        ("task", reference.task, info.task),
        ("vocabulary", reference.vocabulary, info.vocabulary),
    ):
        if expected != found:
            raise StageError(f"the artifact's {name} is {found}, the reference's {expected}")


def _causal(context: Context[QualityParams], session: Session, reference: Logits) -> tuple[Metrics, Samples]:
    return _predicted(context, lambda _which, ids: session.logits(ids), reference)


def _of_pairs(session: PairSession, reference: Logits) -> Forward:
    """The logits of targets, each from its own source."""
    from ..model.pairs import by_source

    sources = reference.sources
    if sources is None:
        raise StageError("the reference holds no sources")

    def run(targets: Ids, source_ids: Ids) -> Floats:
        return session.logits(session.encode(source_ids), targets)

    return lambda which, ids: by_source(run, sources, which, ids)


def _predicted(
    context: Context[QualityParams], forward: Forward, reference: Logits
) -> tuple[Metrics, Samples]:
    """Perplexity, KL and top-1 agreement, and the metrics that were added, with sums a window."""
    import numpy as np

    from ..model.logits import TopK
    from .batches import side_by_side
    from .measures import column, metric
    from .scores import compare

    windows, nll, top = reference.windows, reference.nll, reference.top
    if nll is None or top is None:
        raise StageError("the reference holds no predictions")
    losses, tops = nll, top
    added = [plugins.get(name) for name in context.params.metrics]

    def work(which: Ids, ids: Ids) -> list[Scored]:
        found = []
        outputs = forward(which, ids)
        for logits, row, place in zip(outputs, ids, windows.predictions(which), strict=True):
            expected = TopK(tops.ids[place], tops.log_probabilities[place], tops.tail[place])
            window = plugins.Window(row, logits, losses[place], expected)
            found.append((compare(logits, row, expected), [plugins.score(each, window) for each in added]))
        return found

    scored = side_by_side(work, windows, reference.vocabulary, context.threads, context.progress)
    found: dict[int, Scored] = {}
    for which, results in scored:
        found.update(zip(which.tolist(), results, strict=True))
    compared = [found[number][0] for number in range(windows.count)]
    tokens = windows.lengths - 1
    total = int(tokens.sum())
    expected = np.add.reduceat(nll.astype(np.float64), np.cumsum(tokens) - tokens)
    ours, theirs = sum(each.nll for each in compared), float(expected.sum())
    kl, top1 = sum(each.kl for each in compared), sum(each.top1 for each in compared)
    counts = {"n": windows.count, "tokens": total, "documents": windows.documents}
    metrics: Metrics = {
        "perplexity": metric(
            "ppl", "lower", "relative", perplexity(theirs, total), perplexity(ours, total), **counts
        ),
        "kl_divergence": metric("nat", "lower", "absolute", 0.0, kl / total, **counts),
        "top1_agreement": metric("fraction", "higher", "absolute", 1.0, top1 / total, **counts),
    }
    samples: Samples = {
        "document": windows.document.tolist(),
        "tokens": tokens.tolist(),
        "nll_reference": column(expected.tolist()),
        "nll_value": column(each.nll for each in compared),
        "kl": column(each.kl for each in compared),
        "top1": column(each.top1 for each in compared),
    }
    for place, each in enumerate(added):
        sums = [found[number][1][place] for number in range(windows.count)]
        sides = list(zip(*sums, strict=True))
        reference_mean, value_mean = (sum(side) / total for side in sides)
        metrics[each.name] = metric(
            each.unit, each.better, each.comparison, reference_mean, value_mean, **counts
        )
        samples[f"{each.name}_reference"], samples[f"{each.name}_value"] = map(column, sides)
    return metrics, samples


def perplexity(nll: float, tokens: int) -> float:
    """exp(nll / tokens); infinite where that is too large for a float, NaN for NaN."""
    try:
        return math.exp(nll / tokens)
    except OverflowError:
        return math.inf


def _encoder(context: Context[QualityParams], session: Session, reference: Logits) -> tuple[Metrics, Samples]:
    """The cosine of the last hidden state, a mean over each window's tokens."""
    import numpy as np

    from .batches import side_by_side
    from .measures import column, metric
    from .scores import mean_cosine

    windows, hidden = reference.windows, reference.hidden
    if hidden is None:
        raise StageError("the reference holds no hidden states")
    states = hidden

    def work(which: Ids, ids: Ids) -> list[float]:
        outputs = session.logits(ids)
        return [
            mean_cosine(states[place], output)
            for output, place in zip(outputs, windows.positions(which), strict=True)
        ]

    cosines = np.empty(windows.count)
    for which, results in side_by_side(work, windows, hidden.shape[1], context.threads, context.progress):
        cosines[which] = results
    mean = float(np.sum(cosines * windows.lengths) / windows.tokens)
    counts = {"n": windows.count, "tokens": windows.tokens, "documents": windows.documents}
    metrics: Metrics = {"cosine": metric("fraction", "higher", "absolute", 1.0, mean, **counts)}
    samples: Samples = {
        "document": windows.document.tolist(),
        "tokens": windows.lengths.tolist(),
        "cosine": column(cosines.tolist()),
    }
    return metrics, samples
