"""Pruning in a report: gathered from facts and what stages observed, drawn, and read back."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ingot.pipeline.report import prune_figures, pruned
from ingot.pipeline.report.html import render_html
from ingot.pipeline.report.markdown import render_markdown
from ingot.pipeline.report.record import read_json, render_json

from ..samples import report, target

if TYPE_CHECKING:
    from pathlib import Path

WIDTHS = [
    {"kind": "ffn", "where": f"layers.{layer}.feed_forward", "layer": layer, "before": 1536, "after": 768}
    for layer in range(2)
] + [{"kind": "heads", "where": "layers.0.attention", "layer": 0, "before": 4, "after": 3}]
INFLUENCE = [
    {"layer": 0, "influence": 0.5, "dropped": False}, {"layer": 1, "influence": 0.02, "dropped": True},
    {"layer": 2, "influence": 0.125, "dropped": False},
]  # fmt: skip


def gathered(
    facts: dict[str, Any], observed: Any = None, path: Path | None = None, stage: str = "prune.structured"
) -> tuple[pruned.PruneReport, ...]:
    node = SimpleNamespace(name="prune", stage=stage)
    artifact = SimpleNamespace(facts={"pruned_by": stage.partition(".")[2], **facts}, path=path)
    result = SimpleNamespace(action=SimpleNamespace(observed={"stage": observed}), artifact=artifact)
    graph, outcome = SimpleNamespace(nodes={"prune": node}), SimpleNamespace(results={"prune": result})
    return pruned.prune_reports(graph, outcome)  # type: ignore[arg-type]


def test_widths_and_layers_are_told_in_a_line() -> None:
    facts = {"widths": WIDTHS, "layers_before": 3, "layers_dropped": [1]}
    (found,) = gathered(facts, {"influence": INFLUENCE})
    assert found.summary == ("FFN features 1,536 → 768; groups of heads 4 → 3; layers 3 → 2, without 1")
    assert found.influence[1] == pruned.Influence(1, 0.02, True)
    assert found.widths[0] == pruned.WidthChange("FFN features", 0, 1536, 768)


def test_zeros_are_the_mean_over_weights_of_a_role_in_a_layer(tiny_checkpoint: Any) -> None:
    root = "model.layers.0.block_sparse_moe.experts"
    shares = {f"{root}.0.w1.weight": 0.25, f"{root}.1.w1.weight": 0.75, "lm_head.weight": 0.5}
    (found,) = gathered(
        {"sparsity": 0.5, "sparsity_by_weight": shares}, path=tiny_checkpoint("mixtral"), stage="prune.wanda"
    )
    assert found.zeros == (pruned.Zeros("w1", 0, 0.5), pruned.Zeros("lm_head", None, 0.5))
    assert found.summary == "50.0% of the weights are zero"


def test_other_stages_and_what_did_not_run_say_nothing() -> None:
    assert gathered({}, stage="quantize.gptq") == ()
    node = SimpleNamespace(name="prune", stage="prune.layers")
    outcome = SimpleNamespace(results={"prune": SimpleNamespace(action=None, artifact=None)})
    assert pruned.prune_reports(SimpleNamespace(nodes={"prune": node}), outcome) == ()  # type: ignore[arg-type]


def test_the_page_and_the_markdown_show_it_and_the_record_gives_it_back() -> None:
    facts = {"widths": WIDTHS, "layers_before": 3, "layers_dropped": [1]}
    told = replace(report(target("cpu")), prunings=gathered(facts, {"influence": INFLUENCE}))
    page, text = render_html(told), render_markdown(told)
    assert "What was pruned" in page
    assert "FFN features 1,536 → 768" in page
    assert "layer 1: 0.0200, goes" in page
    assert "- prune: FFN features 1,536 → 768" in text
    assert read_json(render_json(told)) == told
    assert "What was pruned" not in render_html(report(target("cpu")))


def test_bars_of_influence_are_as_tall_as_their_values() -> None:
    (found,) = gathered({}, {"influence": INFLUENCE})
    drawn = str(prune_figures.influence_bars(found.influence))
    tall = [float(part.partition('height="')[2].partition('"')[0]) for part in drawn.split("<rect")[1:4]]
    assert tall[0] == prune_figures.HEIGHT
    assert tall[2] == prune_figures.HEIGHT / 4
    assert drawn.count('class="bar added"') == 2  # the layer that went, and the legend
