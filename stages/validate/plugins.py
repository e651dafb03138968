"""Metrics of other packages: the contract, and the registry that finds them by name.

A metric is one function that scores a window of text from an artifact's output::

    @metric("surprise", title="Surprise", unit="nat", better="lower", comparison="relative")
    def surprise(window: Window) -> tuple[float, float]: ...

It returns two sums over the window's predictions, of the reference and of the artifact; the metric is their
sum over all windows divided by the number of predictions. The package registers it under its name in the
entry point group `ingot.metrics`, and a recipe asks for it with `measure: {quality: {metrics: [surprise]}}`.
The module is imported while planning, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...artifacts.entry_points import entry_points
from ...artifacts.errors import RecipeError, StageError, nearest
from ..model.logits import TopK

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

ENTRY_POINTS = "ingot.metrics"
# Names stand in recipes, in columns of samples and in OpenMetrics, which takes no others.
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, eq=False)
class Window:
    """What a metric sees of one window of T tokens.

    ids: int64 [T].  logits: the artifact's, float32 [T, vocabulary]; row t predicts token t + 1, so the last
    row predicts nothing that is known.  nll: the reference's loss of each prediction in nat, float32 [T - 1].
    top: the reference's likeliest tokens for each prediction, and the probability of all others.
    """

    ids: Ids
    logits: Floats
    nll: Floats
    top: TopK


Score = Callable[[Window], tuple[float, float]]


@dataclass(frozen=True)
class Metric:
    """A metric that a package brings.

    comparison: relative deltas are value / reference - 1, absolute ones value - reference.  version: rises
    when the same output would score otherwise; baselines of another version are refused.
    """

    name: str
    title: str
    unit: str
    better: Literal["lower", "higher"]
    comparison: Literal["relative", "absolute"]
    score: Score
    version: int = 1


def metric(
    name: str,
    *,
    title: str,
    unit: str,
    better: Literal["lower", "higher"],
    comparison: Literal["relative", "absolute"],
    version: int = 1,
) -> Callable[[Score], Metric]:
    """Makes a :class:`Metric` of the function below it, which must give equal sums for equal windows.

    unit: such as nat or fraction, which is shown as a percentage; may be empty.
    """

    def wrap(function: Score) -> Metric:
        return Metric(name, title, unit, better, comparison, function, version)

    return wrap


def names() -> tuple[str, ...]:
    """The names of all registered metrics."""
    return tuple(sorted(point.name for point in entry_points(ENTRY_POINTS)))


def get(name: str, where: str | None = None) -> Metric:
    """The metric called ``name``; raises RecipeError, with the nearest name, when no package brings it.

    where: where the name was written.
    """
    points = {point.name: point for point in entry_points(ENTRY_POINTS)}
    if name not in points:
        guess = nearest(name, points)
        listed = f"metrics are {', '.join(sorted(points))}" if points else "no installed package brings one"
        raise RecipeError(
            f"there is no metric {name!r} to add",
            where=where,
            fix=f"did you mean {guess}?" if guess else listed,
        )
    found = points[name].load()
    if not isinstance(found, Metric) or found.name != name or not NAME.fullmatch(name):
        raise RecipeError(
            f"the metric {name!r} is registered, but {points[name].value} does not define it",
            where=where,
            fix="give it the entry point's name, of lower-case letters, digits and underscores",
        )
    return found


def sources(wanted: Iterable[str]) -> Mapping[str, Path]:
    """All Python files of the packages that bring these metrics, named as they are imported.

    They decide what is measured, so they belong to its key.
    """
    points = {point.name: point for point in entry_points(ENTRY_POINTS)}
    found: dict[str, Path] = {}
    for name in wanted:
        get(name)
        root = points[name].module.partition(".")[0]
        spec = importlib.util.find_spec(root)
        if spec is None:
            raise RecipeError(f"the package {root} of the metric {name} is not here")
        if spec.submodule_search_locations is None and spec.origin is not None:
            found[f"{root}.py"] = Path(spec.origin)
        for folder in map(Path, spec.submodule_search_locations or ()):
            files = sorted(folder.rglob("*.py"))
            found |= {f"{root}/{path.relative_to(folder).as_posix()}": path for path in files}
    return found


def score(metric: Metric, window: Window) -> tuple[float, float]:
    """The two sums of one window; raises StageError when the metric breaks or returns something else."""
    try:
        reference, value = metric.score(window)
        return float(reference), float(value)
    except Exception as error:
        raise StageError(
            f"the metric {metric.name} failed on a window of {len(window.ids)} tokens: "
            f"{type(error).__name__}: {error}",
            fix="it must return two numbers, the sums of the reference and of the artifact",
        ) from error
