"""The report as OpenMetrics 1.0 text, which GitLab shows on merge requests (`artifacts:reports:metrics`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..gate import SEVERITY
from ..metrics import metric_title, place_in_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import RunReport

PREFIX = "ingot"


def render_openmetrics(report: RunReport) -> str:
    """Gauges of each metric and of its change, labelled by target, and the status as a state set.

    Without times, which GitLab would take for a part of the value. Ends with the `# EOF` that the format
    demands.
    """
    return "\n".join((*_status(report), *_gauges(report), "# EOF")) + "\n"


def _status(report: RunReport) -> Iterator[str]:
    name = f"{PREFIX}_status"
    yield f"# TYPE {name} stateset"
    yield f"# HELP {name} The verdict on a target."
    for target in report.targets.values():
        for status in reversed(SEVERITY):
            labels = f'target="{_escaped(target.name)}",{name}="{status}"'
            yield f"{name}{{{labels}}} {int(target.status == status)}"


def _gauges(report: RunReport) -> Iterator[str]:
    targets = report.targets.values()
    found = dict.fromkeys(name for target in targets for name in target.metrics)
    for metric in sorted(found, key=place_in_table):
        having = {target.name: target.metrics[metric] for target in targets if metric in target.metrics}
        kinds = {result.comparison for result in having.values()}
        change = f"{metric}_change_ratio" if kinds == {"relative"} else f"{metric}_change"
        title = metric_title(metric)
        values = {target: result.value for target, result in having.items()}
        deltas = {target: result.delta for target, result in having.items()}
        yield from _family(f"{PREFIX}_{metric}", f"{title} of the artifact.", values)
        yield from _family(f"{PREFIX}_{change}", f"{title}: change from the reference.", deltas)


def _family(name: str, title: str, numbers: dict[str, float | None]) -> Iterator[str]:
    known = {target: number for target, number in numbers.items() if number is not None}
    if known:
        yield f"# TYPE {name} gauge"
        yield f"# HELP {name} {_escaped(title)}"
        for target, number in known.items():
            yield f'{name}{{target="{_escaped(target)}"}} {number!r}'


def _escaped(text: str) -> str:
    """Text between quotation marks, or of a HELP line."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
