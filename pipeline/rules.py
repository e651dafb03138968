"""What a gate demands: bounds on metrics, read from `{perplexity: {max_increase: 2%}, size: {max: 60MB}}`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..artifacts.errors import RecipeError
from ..artifacts.schema import unknown_name
from ..stages.validate import plugins
from .metrics import ALIASES, METRICS, PREDICTING, Metric, find_metric, known_names
from .units import parse_quantity, parse_share, show, show_delta

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .graph import GateRule

Kind = Literal["max", "min", "max_increase", "max_decrease"]
KINDS: tuple[Kind, ...] = ("max", "min", "max_increase", "max_decrease")


@dataclass(frozen=True)
class Bound:
    """A rule that has been understood.

    kind: `max` and `min` bound the value, in the metric's unit; `max_increase` and `max_decrease` bound its
    difference from the reference: a share for relative metrics, in the metric's unit for absolute ones.
    """

    metric: Metric
    kind: Kind
    limit: float
    origin: str

    @property
    def compared(self) -> Literal["value", "delta"]:
        """Which number the limit is held against."""
        return "value" if self.kind in ("max", "min") else "delta"

    @property
    def is_upper(self) -> bool:
        """Whether the compared number must stay at or below :attr:`edge`, rather than at or above it."""
        return self.kind in ("max", "max_increase")

    @property
    def edge(self) -> float:
        """The compared number at which the verdict turns; a decrease of at most x is a delta from -x."""
        return -self.limit if self.kind == "max_decrease" else self.limit

    def __str__(self) -> str:
        sign = "\N{LESS-THAN OR EQUAL TO}" if self.is_upper else "\N{GREATER-THAN OR EQUAL TO}"
        if self.compared == "value":
            return f"{sign} {show(self.edge, self.metric.unit)}"
        return f"{sign} {show_delta(self.edge, self.metric.unit, self.metric.comparison)}"


def read_bound(rule: GateRule) -> Bound:
    """A rule as a bound; raises RecipeError for an unknown metric or rule, and for a limit in other units."""
    name = ALIASES.get(rule.metric, rule.metric)
    metric = find_metric(name)
    if metric is None:
        raise unknown_name(rule.metric, (*known_names(), *ALIASES), prefix="gates", where=rule.origin)
    if rule.rule not in KINDS:
        raise unknown_name(rule.rule, KINDS, prefix=f"gates.{rule.metric}", where=rule.origin)
    kind = KINDS[KINDS.index(rule.rule)]
    try:
        if kind in ("max", "min") or metric.comparison == "absolute":
            limit = parse_quantity(rule.limit, metric.unit)
        else:
            limit = parse_share(rule.limit)
    except ValueError as error:
        label = f"gates.{rule.metric}.{rule.rule}"
        raise RecipeError(f"{label}: {error}", where=rule.origin, fix=_fix(metric, kind)) from None
    return Bound(metric, kind, limit, rule.origin)


def _fix(metric: Metric, kind: Kind) -> str:
    if kind in ("max_increase", "max_decrease"):
        return f"write a {'share such as 2%' if metric.comparison == 'relative' else 'number such as 0.02'}"
    example = {"bytes": "60MB", "ms": "20ms", "fraction": "98%"}.get(metric.unit, "12.5")
    return f"write a quantity such as {example}; max_increase and max_decrease take shares of the reference"


def applies(bound: Bound, task: str) -> bool:
    """Whether models of that task have the metric at all (encoders have no perplexity)."""
    return task in bound.metric.tasks


def require_addable(names: Iterable[str], task: str, where: str | None) -> None:
    """Raises RecipeError for metrics that cannot be added to Ingot's own for models of that task.

    where: where they were asked for.
    """
    for name in names:
        if name in (*METRICS, *ALIASES, "nll"):
            raise RecipeError(
                f"measure.quality.metrics: {name} is measured without being added",
                where=where,
                fix="take it out; the list is for metrics of other packages",
            )
        if task not in PREDICTING:
            raise RecipeError(
                f"measure.quality.metrics: {name} scores predictions; models of the task {task} make none",
                where=where,
                fix="take it out",
            )
        plugins.get(name, where)


def require_measured(rules: Iterable[GateRule], measured: Iterable[str]) -> None:
    """Raises RecipeError for a rule on a metric of another package that nothing measures."""
    added = set(measured)
    for rule in rules:
        name = read_bound(rule).metric.name
        if name not in METRICS and name not in added:
            raise RecipeError(
                f"gates.{rule.metric}: {name} is not measured",
                where=rule.origin,
                fix=f"ask for it with measure: {{quality: {{metrics: [{name}]}}}}",
            )


def require_task(rules: Iterable[GateRule], task: str) -> None:
    """Raises RecipeError for a rule on a metric that models of that task do not have."""
    for rule in rules:
        bound = read_bound(rule)
        if not applies(bound, task):
            valid = ", ".join(name for name, metric in METRICS.items() if task in metric.tasks)
            raise RecipeError(
                f"gates.{rule.metric}: a model of the task {task} has no {bound.metric.name}",
                where=rule.origin,
                fix=f"its metrics are {valid}",
            )
