"""Baselines on hand-made measurements: what is pinned, what is refused, and the verdicts of pairs."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import CorruptError, InputError
from ingot.pipeline import baseline as baselines
from ingot.pipeline.gate import evaluate
from ingot.pipeline.plain import to_plain
from ingot.pipeline.report.model import NodeReport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from ingot.artifacts.store import Store
    from ingot.pipeline.baseline import Baseline
    from ingot.pipeline.report.model import RunReport

    Finish = Callable[..., tuple[RunReport, Baseline]]

VERSIONS = {"perplexity": 1, "kl_divergence": 1, "top1_agreement": 1}
REFERENCE, EVALUATION = "4e" * 32, "ab" * 32


@pytest.fixture
def finish(store: Store, samples: ModuleType) -> Finish:
    """A run of one target whose measurements are in the store: ``(columns, size=..., **changes)``.

    changes: reference, evaluation, window, versions; written: other samples than measured.
        Gives its report and what `pin` makes of it.
    """

    def make(columns: dict[str, list[float]], size: int = 1_420_000, **changes: object):
        quality = samples.quality_of(columns)
        costs = samples.cost(size=(8_270_000, size))
        bounds = samples.bounds(
            perplexity={"max_increase": "2%"}, size={"max_increase": "1%"}, kl={"max": 0.5}
        )
        verdict = evaluate(bounds, quality, costs, resamples=500)
        data = {"evaluation": EVALUATION, "window": 256, "versions": VERSIONS}
        data |= {name: value for name, value in changes.items() if name in data}
        document = {
            "schema": "ingot/measurements/v1",
            "kind": "quality",
            "task": "causal-lm",
            "metrics": {name: to_plain(measured) for name, measured in quality.metrics.items()},
            "data": data,
        }
        with store.outbox() as outbox:
            outbox.write_json("measurements.json", document)
            outbox.write_json("samples.json", changes.get("written", columns))
            artifact = outbox.publish("measurements", {})
        target = dataclasses.replace(
            samples.target("cpu-int4"), metrics=verdict.metrics, checks=verdict.checks, status=verdict.status
        )
        reference = str(changes.get("reference", REFERENCE))
        nodes = (
            NodeReport("load", "load", {}, "built", artifact=reference),
            NodeReport("reference", "validate.reference", {"model": "load"}, "built", artifact="5f" * 32),
            NodeReport("export@cpu-int4", "export.onnx", {}, "built", artifact=target.artifact),
            NodeReport(
                "quality@cpu-int4",
                "validate.quality",
                {"artifact": "export@cpu-int4", "reference": "reference"},
                "built",
                artifact=artifact.digest,
                target="cpu-int4",
            ),
        )
        report = samples.report(target, nodes=nodes)
        return report, baselines.pin(store, report)

    return make


def shifted(columns: dict[str, list[float]], nats: float) -> dict[str, list[float]]:
    """The same windows, each token worse by so many nats."""
    moved = [nll + nats * tokens for nll, tokens in zip(columns["nll_value"], columns["tokens"], strict=True)]
    return {**columns, "nll_value": moved}


def test_a_baseline_pins_digests_versions_numbers_and_sums_by_document(
    finish: Finish, samples: ModuleType
) -> None:
    columns = samples.windows(documents=7, per_document=3)
    report, pinned = finish(columns)
    target = pinned.targets["cpu-int4"]
    assert (target.reference, target.evaluation, target.window) == (REFERENCE, EVALUATION, 256)
    assert target.artifact == report.targets["cpu-int4"].artifact
    assert target.metrics["perplexity"].result == report.targets["cpu-int4"].metrics["perplexity"]
    assert set(target.metrics) == {*VERSIONS, "size_bytes"}
    for place, label in enumerate(target.documents):
        own = [at for at, other in enumerate(columns["document"]) if other == label]
        assert target.tokens[place] == sum(columns["tokens"][at] for at in own)
        for metric, column in (("perplexity", "nll_value"), ("kl_divergence", "kl")):
            assert target.sums[metric][place] == pytest.approx(sum(columns[column][at] for at in own))


def test_a_baseline_survives_being_written_and_read(
    finish: Finish, samples: ModuleType, tmp_path: Path
) -> None:
    _, pinned = finish(samples.windows())
    path = tmp_path / "baseline.json"
    path.write_text(baselines.render(pinned))
    assert baselines.read(path) == pinned
    assert path.stat().st_size < 20_000


def test_an_artifact_is_as_good_as_itself(finish: Finish, samples: ModuleType) -> None:
    report, pinned = finish(samples.windows(change=0.03))
    found = baselines.compare(pinned, pinned, report)["cpu-int4"]
    assert found.status == "pass"
    assert {(result.low, result.delta, result.high) for result in found.metrics.values()} == {(0.0, 0.0, 0.0)}


@pytest.mark.parametrize(("nats", "status"), [(0.001, "pass"), (-0.05, "pass"), (0.05, "fail")])
def test_the_baseline_takes_the_place_of_the_reference(
    finish: Finish, samples: ModuleType, nats: float, status: str
) -> None:
    columns = samples.windows(change=0.015)
    _, before = finish(columns)
    report, now = finish(shifted(columns, nats))
    found = baselines.compare(before, now, report)["cpu-int4"]
    assert found.status == status
    change = found.metrics["perplexity"]
    # Every token moved alike, so that in pairs nothing is left to chance.
    for number in (change.low, change.delta, change.high):
        assert number == pytest.approx(math.expm1(nats), rel=1e-9)
    assert {check.metric for check in found.checks} == {"perplexity", "size_bytes"}


def test_a_larger_file_breaks_the_bound_on_size_exactly(finish: Finish, samples: ModuleType) -> None:
    columns = samples.windows()
    _, before = finish(columns, size=1_000_000)
    for size, status in ((1_009_999, "pass"), (1_010_001, "fail")):
        report, now = finish(columns, size=size)
        assert baselines.compare(before, now, report)["cpu-int4"].status == status


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluation": "cd" * 32}, ["other data", "abababababab", "cdcdcdcdcdcd"]),
        ({"reference": "77" * 32}, ["another reference", "4e4e4e4e4e4e", "777777777777"]),
        ({"window": 128}, ["windows", "256", "128"]),
        ({"versions": {**VERSIONS, "perplexity": 2}}, ["perplexity", "version", "1", "2"]),
    ],
)
def test_numbers_of_another_kind_are_refused_naming_both(
    finish: Finish, samples: ModuleType, change: dict[str, object], words: list[str]
) -> None:
    columns = samples.windows()
    _, before = finish(columns)
    report, now = finish(columns, **change)
    with pytest.raises(InputError) as refused:
        baselines.compare(before, now, report)
    assert refused.value.exit_code == 2
    for word in words:
        assert word in refused.value.what


def test_other_documents_are_refused(finish: Finish, samples: ModuleType) -> None:
    _, before = finish(samples.windows(documents=9))
    report, fewer = finish(samples.windows(documents=8))
    with pytest.raises(InputError, match="9 in the baseline and 8 here"):
        baselines.compare(before, fewer, report)
    report, longer = finish(samples.windows(documents=9, seed=4))
    with pytest.raises(InputError, match="on other tokens"):
        baselines.compare(before, longer, report)


def test_a_target_that_the_baseline_lacks_is_refused(finish: Finish, samples: ModuleType) -> None:
    report, now = finish(samples.windows())
    with pytest.raises(InputError, match="no numbers of the target cpu-int4"):
        baselines.compare(dataclasses.replace(now, targets={}), now, report)


def test_unsound_samples_are_left_out_with_the_reason(finish: Finish, samples: ModuleType) -> None:
    columns = samples.windows(documents=5)
    _, pinned = finish(columns, written={**columns, "kl": [*columns["kl"][1:], None]})
    assert pinned.targets == {}
    assert pinned.left_out == {"cpu-int4": f"1 of {len(columns['kl'])} samples of kl are not finite numbers"}


def test_what_is_no_baseline_is_refused(tmp_path: Path, finish: Finish, samples: ModuleType) -> None:
    path = tmp_path / "baseline.json"
    with pytest.raises(InputError, match="cannot be read"):
        baselines.read(path)
    _, pinned = finish(samples.windows(documents=3))
    good = json.loads(baselines.render(pinned))
    wrong = ["", "[]", "{}", json.dumps({**good, "schema": "ingot/baseline/v9"}), "[" * 100_000]
    for text in wrong:
        path.write_text(text)
        with pytest.raises(CorruptError, match="baseline"):
            baselines.read(path)
