"""Which figures a report has of its targets' weights, stages, spreads and sweeps, each with its title."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..metrics import QUALITY, metric_title
from ..units import significant
from . import curves, heat, pareto
from .layer_bars import layer_bars
from .svg import Fragment
from .sweep_lines import sweep_lines
from .waterfall import waterfall

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..gate import MetricResult
    from .model import RunReport, TargetReport

SPREAD_TITLES = {"prefill_ms": "prefill", "decode_step_ms": "one decoded token"}
SWEEP_TITLES = {"prefill_ms": "prefill", "decode_ms": "one decoding step"}
# Two dots say less than the table does.
FEWEST_TRADED = 3


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, and what its title needs to be understood."""

    title: str
    plot: Fragment
    detail: str = ""


def weights(report: RunReport) -> Iterator[Figure]:
    """The widths of every target's weights, and where it has any, the errors of rounding."""
    for target in report.targets.values():
        if not target.weights:
            continue
        bits = f"{target.bits_per_weight:.2f} bits/weight" if target.bits_per_weight else ""
        yield Figure(f"{target.name}: width and bytes", heat.width_grid(target.weights), bits)
        if any(group.error is not None for group in target.weights):
            yield Figure(f"{target.name}: error of rounding", heat.error_grid(target.weights), "in %")
        if target.layer_errors:
            plot = layer_bars(target.layer_errors)
            yield Figure(f"{target.name}: error of each layer's outputs", plot, "in %")


def steps(report: RunReport) -> Iterator[Figure]:
    """What each stage saved and cost, for every target with more than one."""
    for target in report.targets.values():
        if len(target.steps) > 1:
            metric = quality_of(target)
            comparison = target.metrics[metric].comparison if metric else "relative"
            title = metric_title(metric).lower() if metric else "quality"
            yield Figure(target.name, waterfall(target.steps, target.name, title, comparison))


def spreads(report: RunReport) -> Iterator[Figure]:
    """How single times are spread on both sides."""
    for target in report.targets.values():
        for spread in target.spreads:
            title = f"{target.name}: {SPREAD_TITLES[spread.metric]}"
            sides = {("artifact" if side == "value" else side): curve for side, curve in spread.sides.items()}
            yield Figure(title, curves.cumulative(title, spread.unit, sides))


def sweeps(report: RunReport) -> Iterator[Figure]:
    """Every target's cells, all shaded by the same best."""
    swept = [target for target in report.targets.values() if target.sweep]
    cells = [cell for target in swept for cell in target.sweep]
    for metric, title in SWEEP_TITLES.items():
        best = heat.best_rate(cells, ("value",), metric)
        for target in swept if best else ():
            grid = heat.sweep_grid(target.sweep, "value", metric, "reference", best)
            yield Figure(f"{target.name}: {title}", grid)
            curves = sweep_lines(target.sweep, "value", metric, "reference")
            if curves is not None:
                yield Figure(f"{target.name}: {title}, latency by throughput", curves)


def trades(report: RunReport) -> Iterator[Figure]:
    """Quality against size, where there are several targets to choose from; each matrix by itself."""
    groups: dict[str, list[TargetReport]] = {}
    for target in report.targets.values():
        groups.setdefault(target.cell_of or "", []).append(target)
    small = [group for group in groups.values() if len(group) < FEWEST_TRADED]
    large = {title: group for title, group in groups.items() if len(group) >= FEWEST_TRADED}
    together = [target for group in small for target in group]
    titled = len(large) > 1
    for title, group in {**large, **({"": [*large.get("", []), *together]} if together else {})}.items():
        for figure in _trades(group):
            yield replace(figure, title=f"{title}: {figure.title.lower()}") if title and titled else figure


def _trades(targets: Sequence[TargetReport]) -> Iterator[Figure]:
    for name in QUALITY:
        placed = [(target, place) for target in targets if (place := pareto.position(target, name))]
        if len(placed) >= FEWEST_TRADED:
            best = {placed[index][0].name for index in pareto.front([place for _, place in placed])}
            metric = placed[0][0].metrics[name]
            found = [_traded(target, target.metrics[name], target.name in best) for target, _ in placed]
            corner = "lower" if metric.better == "lower" else "upper"
            plot = curves.trade(found, metric_title(name), metric.comparison)
            detail = f"the {corner} left is better; nothing measured lies beyond the line"
            yield Figure(f"{metric_title(name)} against size", plot, detail)


def _traded(target: TargetReport, metric: MetricResult, is_front: bool) -> curves.Traded:
    # The cells of a matrix share their target's name.
    label = ", ".join(target.cell.values()) or target.name
    size = target.metrics["size_bytes"].value or 0
    return curves.Traded(
        label, target.status, size, metric.delta or 0.0, metric.low, metric.high, is_front=is_front
    )


def quality_of(target: TargetReport) -> str | None:
    """The metric that says a target's quality in one number; None where it has none."""
    return next((name for name in QUALITY if name in target.metrics), None)


def worst_tensors(report: RunReport) -> Iterator[tuple[str, str, str, str, str]]:
    """The rows of the table of tensors that rounding changed most: target, tensor, width, error in %, SNR in
    dB.
    """
    for target in report.targets.values():
        for tensor in target.worst_tensors:
            error = tensor.relative_error
            decibels = f"{-20 * math.log10(error):.1f}" if error else "∞"
            yield target.name, tensor.name, tensor.width, significant(100 * error), decibels
