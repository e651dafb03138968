"""Trainings in a report: gathered from what stages observed, drawn, and read back."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ingot.pipeline.report import training_figures, trainings
from ingot.pipeline.report.html import render_html
from ingot.pipeline.report.record import read_json, render_json

from ..samples import report, target

CURVES = {
    "loss": [[1, 3.7], [2, 3.6], [3, 9.0]],
    "selection": [[0, 3.6], [2, 3.55], [3, None]],
    "best": 2,
    "steps": 3,
    "learning_rate": [[1, 1e-4]],
    "parts": {},
}


def gathered(observed: Any) -> tuple[trainings.TrainingReport, ...]:
    node = SimpleNamespace(name="heal", stage="distill")
    result = SimpleNamespace(action=SimpleNamespace(observed={"stage": observed}))
    graph, outcome = SimpleNamespace(nodes={"heal": node}), SimpleNamespace(results={"heal": result})
    return trainings.training_reports(graph, outcome)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "recovered"),
    # Of a tenth of a nat that was lost, half a tenth came back.
    [(3.5, 0.5), (None, None), (3.6, None), (3.9, None), (float("nan"), None)],
)
def test_the_recovered_share_is_of_what_lay_between_start_and_teacher(
    reference: float | None, recovered: float | None
) -> None:
    (found,) = gathered({"training": CURVES, "reference_loss": reference})
    assert (found.node, found.best, found.start, found.end) == ("heal", 2, 3.6, 3.55)
    assert found.recovered == (None if recovered is None else pytest.approx(recovered))


def test_stages_that_do_not_train_are_no_trainings() -> None:
    assert gathered({"tensors": {}}) == gathered(None) == ()


def test_the_figure_has_both_losses_and_marks_the_point_that_was_taken() -> None:
    (figure,) = training_figures.figures_of(gathered({"training": CURVES, "reference_loss": 3.5}))
    plot = str(figure.plot)
    assert figure.title == "heal: loss"
    assert plot.count("<circle") == 2
    assert plot.count('r="4.2"') == 1
    assert plot.count("<path") == 2
    assert "teacher 3.500" in plot
    assert "3.600 at the start, 3.550 taken at step 2 of 3" in plot


def test_a_divergence_is_not_drawn_among_losses_of_tokens() -> None:
    divergences = {**CURVES, "loss": [[1, 0.04], [2, 0.02], [3, 0.01]]}
    (figure,) = training_figures.figures_of(gathered({"training": divergences, "reference_loss": 3.5}))
    plot = str(figure.plot)
    assert plot.count("<path") == 1
    # The axis is of what was measured: 3.5 to 3.6, so that its changes are seen.
    ticks = [float(each) for each in re.findall(r'class="tick"[^>]*>([\d.]+)<', plot)]
    assert all(3.4 < tick < 3.7 for tick in ticks if tick > 3)
    assert 0.0 not in ticks[: len(ticks) - 2]
    assert "3.600 at the start, 3.550 taken at step 2 of 3" in plot


def test_the_page_says_what_was_recovered_and_the_record_is_read_back() -> None:
    found = gathered({"training": CURVES, "reference_loss": 3.5})
    whole = replace(report(target("cpu")), trainings=found)
    page = render_html(whole)
    assert "The training" in page
    assert "50.00" in page
    assert read_json(render_json(whole)) == whole
    assert "The training" not in render_html(report(target("cpu")))
