"""The metrics: what each one means, in which unit, and how its samples become a number.

Those of other packages (entry point group `ingot.metrics`) are looked up where a name is not in the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from ..stages.validate import plugins

if TYPE_CHECKING:
    from collections.abc import Mapping

Better = Literal["lower", "higher"]
Comparison = Literal["relative", "absolute"]
# How the samples lead to the value: see statistics.py. `exact` metrics have no sampling error.
Estimator = Literal["perplexity", "token_mean", "paired_mean", "repeats", "exact"]
CAUSAL, ENCODER, SEQ2SEQ = "causal-lm", "encoder", "seq2seq-lm"
# Those whose models predict tokens, and all.
PREDICTING = (CAUSAL, SEQ2SEQ)
ALL = (*PREDICTING, ENCODER)


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    comparison: relative deltas are value / reference - 1, absolute ones value - reference.  column: the
    per-window or per-repeat samples it is made of, in samples.json.
    """

    name: str
    title: str
    unit: str
    better: Better
    comparison: Comparison
    estimator: Estimator
    column: str = ""
    tasks: tuple[str, ...] = ALL


TABLE = (
    Metric("perplexity", "Perplexity", "ppl", "lower", "relative", "perplexity", "nll_value", PREDICTING),
    Metric("kl_divergence", "KL divergence", "nat", "lower", "absolute", "token_mean", "kl", PREDICTING),
    Metric(
        "top1_agreement",
        "Top-1 agreement",
        "fraction",
        "higher",
        "absolute",
        "token_mean",
        "top1",
        PREDICTING,
    ),
    Metric(
        "cosine", "Cosine similarity", "fraction", "higher", "absolute", "token_mean", "cosine", (ENCODER,)
    ),
    Metric("parity_max_error", "Largest parity error", "", "lower", "absolute", "exact"),
    Metric("size_bytes", "Size", "bytes", "lower", "relative", "exact"),
    Metric("load_ms", "Load time", "ms", "lower", "relative", "repeats", "load_ms"),
    Metric("prefill_ms", "Prefill", "ms", "lower", "relative", "repeats", "prefill_ms"),
    Metric("decode_ms", "Decode, a token", "ms", "lower", "relative", "repeats", "decode_ms", PREDICTING),
    Metric(
        "tokens_per_second", "Throughput", "tokens/s", "higher", "relative", "repeats", "tokens_per_second"
    ),
    Metric("peak_memory_bytes", "Peak memory", "bytes", "lower", "relative", "repeats", "peak_memory_bytes"),
    Metric(
        "device_memory_bytes",
        "Peak memory of the GPU",
        "bytes",
        "lower",
        "relative",
        "repeats",
        "device_memory_bytes",
    ),
)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in TABLE})

# What says quality in one number, by task; a target has one of them.
QUALITY = ("perplexity", "cosine")
# The names people write in a recipe for those in the table.
ALIASES: Mapping[str, str] = MappingProxyType(
    {"size": "size_bytes", "memory": "peak_memory_bytes", "kl": "kl_divergence", "top1": "top1_agreement"}
)


def find_metric(name: str) -> Metric | None:
    """The metric of that name, of the table or of another package; None when nobody brings it.

    Raises RecipeError for a package that registers a metric and does not define it.
    """
    if name in METRICS or name not in plugins.names():
        return METRICS.get(name)
    found = plugins.get(name)
    return Metric(
        name, found.title, found.unit, found.better, found.comparison, "paired_mean", tasks=PREDICTING
    )


def known_names() -> tuple[str, ...]:
    """The names of all metrics, those of the table first."""
    return (*METRICS, *(name for name in plugins.names() if name not in METRICS))


def metric_title(name: str) -> str:
    """What a metric is called in words; its name where the package that brings it is gone."""
    found = find_metric(name)
    return found.title if found else name


def place_in_table(name: str) -> int:
    """The order in which metrics are shown; unknown ones come last."""
    return next((place for place, metric in enumerate(TABLE) if metric.name == name), len(TABLE))
