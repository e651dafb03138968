"""What a gate demands, as it is written in recipes and profiles."""

from __future__ import annotations

import pytest
from ingot.artifacts.errors import RecipeError
from ingot.pipeline.graph import GateRule
from ingot.pipeline.rules import read_bound, require_task


def rule(metric: str, kind: str, limit: float | str) -> GateRule:
    return GateRule(metric, kind, limit, "ingot.yaml:12")


@pytest.mark.parametrize(
    ("written", "metric", "compared", "is_upper", "edge"),
    [
        (rule("perplexity", "max_increase", "2%"), "perplexity", "delta", True, 0.02),
        (rule("size", "max", "60MB"), "size_bytes", "value", True, 60e6),
        (rule("size_bytes", "max_increase", "-70%"), "size_bytes", "delta", True, -0.7),
        (rule("top1", "min", "97%"), "top1_agreement", "value", False, 0.97),
        (rule("top1_agreement", "max_decrease", 0.03), "top1_agreement", "delta", False, -0.03),
        (rule("tokens_per_second", "max_decrease", "10%"), "tokens_per_second", "delta", False, -0.1),
        (rule("kl", "max", 0.05), "kl_divergence", "value", True, 0.05),
        (rule("prefill_ms", "max", "0.1s"), "prefill_ms", "value", True, 100),
    ],
)
def test_rules_become_bounds(
    written: GateRule, metric: str, compared: str, is_upper: bool, edge: float
) -> None:
    bound = read_bound(written)
    assert (bound.metric.name, bound.compared, bound.is_upper) == (metric, compared, is_upper)
    assert bound.edge == pytest.approx(edge)
    assert bound.origin == "ingot.yaml:12"


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="perplexty") as caught:
        read_bound(rule("perplexty", "max", 3))
    assert caught.value.fix == "did you mean perplexity?"
    assert caught.value.where == "ingot.yaml:12"


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"gates\.perplexity\.max_increse") as caught:
        read_bound(rule("perplexity", "max_increse", "2%"))
    assert caught.value.fix == "did you mean max_increase?"


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        (rule("size", "max", "25%"), "60MB"),
        (rule("size", "max", "60ms"), "60MB"),
        (rule("perplexity", "max_increase", "a bit"), "2%"),
        (rule("perplexity", "max_increase", "2 ppl"), "2%"),
        (rule("kl_divergence", "max_increase", "2%"), "0.02"),
        (rule("load_ms", "max", True), "20ms"),
    ],
)
def test_a_limit_in_other_units_says_what_to_write(written: GateRule, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_bound(written)
    assert f"gates.{written.metric}.{written.rule}" in caught.value.what
    assert repr(written.limit) in caught.value.what
    assert fix in str(caught.value.fix)


def test_a_metric_of_another_task_is_refused() -> None:
    require_task([rule("cosine", "min", 0.99), rule("size", "max", "1GB")], "encoder")
    with pytest.raises(RecipeError, match="encoder has no perplexity") as caught:
        require_task([rule("perplexity", "max_increase", "2%")], "encoder")
    assert "cosine" in str(caught.value.fix)
