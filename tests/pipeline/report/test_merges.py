"""Merges in a report: gathered from what stages observed, drawn, and read back."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ingot.pipeline.report import merge_figures, merges
from ingot.pipeline.report.html import render_html
from ingot.pipeline.report.record import read_json, render_json

from ..samples import report, target

SIMILARITY = {
    "groups": [
        {
            "sources": ["./a", "./b"], "layer": layer, "role": role, "kept": [0.25, None],
            "cosine": [[1.0, 0.5 - layer], [0.5 - layer, 1.0]], "sign_agreement": [[1.0, 0.75], [0.75, 1.0]],
        }
        for layer in (0, 1)
        for role in ("mlp.up_proj", "mlp.down_proj")
    ]
}  # fmt: skip
SEARCH = {
    "texts": ["prose.txt", "code.txt"],
    "trials": [
        {"point": [0.5], "windows": 2, "losses": [3.0, 4.0]},
        {"point": [0.1], "windows": 2, "losses": [None, 4.0]},
        {"point": [0.6], "windows": 2, "losses": [2.0, 4.0]},
        {"point": [0.6], "windows": 8, "losses": [2.5, 3.5]},
    ],
    "best": {"point": [0.6], "windows": 8, "losses": [2.5, 3.5]},
    "sources": {"./a": [2.0, 9.0]},
}


def gathered(observed: Any, stage: str = "merge.ties", **facts: Any) -> tuple[merges.MergeReport, ...]:
    params = SimpleNamespace(titles={"model1": "models/a"})
    node = SimpleNamespace(name="merge", stage=stage, params=params)
    artifact = SimpleNamespace(facts={"merge_method": "ties", **facts})
    result = SimpleNamespace(action=SimpleNamespace(observed={"stage": observed}), artifact=artifact)
    graph, outcome = SimpleNamespace(nodes={"merge": node}), SimpleNamespace(results={"merge": result})
    return merges.merge_reports(graph, outcome)  # type: ignore[arg-type]


def test_groups_have_the_mean_of_all_pairs_of_models() -> None:
    (found,) = gathered({"similarity": SIMILARITY})
    assert (found.node, found.method, found.sources) == ("merge", "ties", ("./a", "./b"))
    assert found.groups[0] == merges.MergeGroup("mlp.up_proj", 0, (0.25, None), 0.5, 0.75)
    assert [group.cosine for group in found.groups] == [0.5, 0.5, -0.5, -0.5]
    assert found.search is None


def test_a_search_tells_its_first_trials_and_what_each_model_makes_of_each_text() -> None:
    coefficients = [
        {"parameter": "weight", "model": "model1", "value": 0.6},
        {"parameter": "t", "value": [0, 1]},
    ]
    (found,) = gathered({"search": SEARCH}, coefficients=coefficients)
    assert found.search == merges.Search(
        ("prose.txt", "code.txt"),
        (3.5, None, 3.0),
        {"a": (2.0, 9.0), "merged": (2.5, 3.5)},
        {"weight of a": "0.6", "t": "0, 1"},
    )


def test_held_out_texts_are_shown_with_every_model_and_what_was_merged() -> None:
    texts = {"texts": ["code.txt"], "sources": {"models/a": [2.0], "./b": [None]}, "merged": [1.75]}
    found = gathered({"texts": texts})
    assert found[0].held_out == merges.HeldOut(("code.txt",), {"a": (2.0,), "b": (None,), "merged": (1.75,)})
    whole = replace(report(target("cpu")), merges=found)
    page = render_html(whole)
    assert "merge: perplexity on held-out" in page
    assert f"{math.exp(1.75):.4g}" in page
    assert read_json(render_json(whole)) == whole


def test_other_stages_are_no_merges() -> None:
    assert gathered({"similarity": SIMILARITY}, stage="quantize.rtn") == ()


def test_figures_are_of_what_there_is() -> None:
    found = gathered({"similarity": SIMILARITY, "search": SEARCH})
    figures = list(merge_figures.figures_of(found))
    assert [figure.title for figure in figures] == [
        "merge: kept of a", "merge: cosine between changes", "merge: changes in one direction",
        "merge: trials",
    ]  # fmt: skip
    kept, cosine, agreement, trials = (str(figure.plot) for figure in figures)
    assert kept.count(">25<") == 4
    assert "mean 0.00" in cosine
    assert ">-0.50<" in cosine
    assert agreement.count(">75<") == 4
    assert trials.count("<circle") == 3
    assert "3 trials, the best 3" in trials


@pytest.mark.parametrize("observed", [{}, {"similarity": {}}, {"search": None}])
def test_a_merge_without_a_base_has_no_figures(observed: Any) -> None:
    found = gathered(observed)
    assert list(merge_figures.figures_of(found)) == []
    assert "The merge" not in render_html(replace(report(target("cpu")), merges=found))


def test_the_page_shows_perplexities_and_the_record_is_read_back() -> None:
    whole = replace(report(target("cpu")), merges=gathered({"similarity": SIMILARITY, "search": SEARCH}))
    page = render_html(whole)
    assert f"{math.exp(2.5):.4g}" in page
    assert "prose.txt" in page
    assert read_json(render_json(whole)) == whole
