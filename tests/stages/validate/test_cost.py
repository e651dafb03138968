"""`validate.cost`: turns, numbers and processes, on tiny models and on a graph of known size."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import InputError, StageError
from ingot.artifacts.manifest import Artifact, ArtifactRecord, FileRecord
from ingot.stages.validate import cost, cost_side
from ingot.stages.validate.cost import CostParams, fit, quantiles
from ingot.stages.validate.cost_side import SideProcess

from .conftest import measured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Artifact]

SMALL = {"prefill_tokens": 16, "decode_tokens": 4, "repeats": 2, "passes": 3}
SIDES = ("reference", "value")


@pytest.fixture(scope="module")
def measure(run_stage: Make, exported: Make, tiny_checkpoint: Callable[..., Path]) -> Callable[..., Any]:
    """Measurements, samples and inputs of a family's 4-bit export beside the unquantized one."""

    def make(family: str) -> tuple[Any, Any, dict[str, Artifact]]:
        source = run_stage("load", {}, model=str(tiny_checkpoint(family)))
        inputs = {"artifact": exported(family, 4), "reference": exported(family), "source": source}
        return *measured(run_stage("validate.cost", inputs, **SMALL)), inputs

    return make


def test_a_language_model_is_loaded_prefilled_and_decoded(measure: Callable[..., Any]) -> None:
    found, samples, _ = measure("llama")
    counts = {
        "load_ms": 2, "prefill_ms": 6, "decode_ms": 6, "tokens_per_second": 6, "peak_memory_bytes": 2,
    }  # fmt: skip
    metrics = found["metrics"]
    assert set(metrics) == {"size_bytes", *counts}
    for name, count in counts.items():
        assert [len(samples[name][side]) for side in SIDES] == [count, count]
        assert metrics[name]["n"] == count
        for side in SIDES:
            assert metrics[name][side] == pytest.approx(statistics.median(samples[name][side]))
            assert min(samples[name][side]) > 0
            spread = metrics[name]["distribution"][side]
            assert spread["p50"] <= spread["p95"] <= spread["p99"]
            assert spread["n"] == (24 if name == "decode_ms" else count)
    for milliseconds, rate in zip(
        samples["decode_ms"]["value"], samples["tokens_per_second"]["value"], strict=True
    ):
        assert milliseconds * rate == pytest.approx(1000)
    assert found["environment"]["threads"] >= 1
    assert found["data"] == SMALL


def test_size_is_of_the_graph_and_of_the_source_weights(measure: Callable[..., Any]) -> None:
    found, _, inputs = measure("gpt2")
    size = found["metrics"]["size_bytes"]
    assert size["value"] == (inputs["artifact"].path / "model.onnx").stat().st_size
    assert size["reference"] == (inputs["source"].path / "model.safetensors").stat().st_size


def test_external_weights_count_and_tokenizers_do_not() -> None:
    files = (("model.onnx", 5), ("model.onnx.data", 700), ("tokenizer.json", 90), ("ingot.json", 3))
    record = ArtifactRecord("onnx", tuple(FileRecord(name, size, "0" * 64) for name, size in files), {})
    source = ArtifactRecord("checkpoint", (), {"weight_bytes": 1000})
    found = cost.artifact_size(Artifact("0", record, None), Artifact("0", source, None))  # type: ignore[arg-type]
    assert (found["reference"], found["value"]) == (1000, 705)


def test_an_encoder_is_not_decoded(measure: Callable[..., Any]) -> None:
    found, samples, _ = measure("bert")
    assert "decode_ms" not in found["metrics"]
    assert "decode_ms" not in samples
    pairs = zip(samples["prefill_ms"]["value"], samples["tokens_per_second"]["value"], strict=True)
    assert all(milliseconds * rate == pytest.approx(16_000) for milliseconds, rate in pairs)


@pytest.mark.parametrize(
    ("context", "prefill", "decode"),
    [(2048, 128, 32), (160, 128, 32), (100, 68, 32), (20, 10, 10), (1, 1, 1)],
)
def test_prompt_and_decoding_fit_into_the_context(context: int, prefill: int, decode: int) -> None:
    plan = fit(CostParams(), "causal-lm", context)
    assert (plan.prefill_tokens, plan.decode_tokens) == (prefill, decode)


def test_an_encoder_may_use_its_whole_context() -> None:
    plan = fit(CostParams(prefill_tokens=64), "encoder", 40)
    assert (plan.prefill_tokens, plan.decode_tokens) == (40, 0)


def test_quantiles_interpolate_between_samples() -> None:
    assert quantiles([4.0, 1.0, 2.0, 3.0]) == pytest.approx({"p50": 2.5, "p95": 3.85, "p99": 3.97, "n": 4})


class FakeSide:
    """A side that answers at once and keeps the order in which it was asked."""

    asked: list[str]
    device_ms: tuple[float, ...] = ()

    def __init__(self, directory: str, threads: int, device: str = "cpu") -> None:
        self.name = directory
        FakeSide.asked.append(f"{self.name} start")

    def wait_until_ready(self) -> None:
        FakeSide.asked.append(f"{self.name} wait")

    def ask(self, what: str, tokens: int = 0) -> dict[str, Any]:
        FakeSide.asked.append(f"{self.name} {what}")
        about = {"task": "causal-lm", "context": 64, "runtime": "none", "runtime_version": "0"}
        return {"ms": 1.0, "peak_bytes": 1, "baseline_bytes": 1, **about}

    def ask_ms(self, what: str, tokens: int) -> list[float]:
        self.ask(what)
        return [1.0]

    def close(self) -> None:
        FakeSide.asked.append(f"{self.name} close")


def test_sides_take_turns_and_the_first_turn_alternates(
    monkeypatch: pytest.MonkeyPatch, run_stage: Make, tmp_path: Path
) -> None:
    FakeSide.asked = []
    monkeypatch.setattr(cost_side, "SideProcess", FakeSide)
    monkeypatch.setattr(cost, "BUSY_SECONDS", 0.01)
    source = Artifact("0", ArtifactRecord("checkpoint", (), {"weight_bytes": 1}), tmp_path)
    sides = {
        name: Artifact("0", ArtifactRecord("onnx", (), {}), path)  # type: ignore[arg-type]
        for name, path in (("reference", "R"), ("artifact", "A"))
    }
    run_stage("validate.cost", {**sides, "source": source}, repeats=2, passes=2)
    one = ["start", "wait", "load", "prefill"]
    first = [f"{side} {what}" for what in one for side in "RA"]
    first += [f"{side} {what}" for side in "RAAR" for what in ("prefill", "decode")]
    second = [line.translate(str.maketrans("RA", "AR")) for line in first]
    ends = [f"{side} {what}" for what in ("memory", "close") for side in "RA"]
    other_ends = [line.translate(str.maketrans("RA", "AR")) for line in ends]
    assert FakeSide.asked == [*first, *ends, *second, *other_ends]


def test_a_busy_machine_is_remarked(monkeypatch: pytest.MonkeyPatch, run_stage: Make, tmp_path: Path) -> None:
    import psutil

    FakeSide.asked = []
    monkeypatch.setattr(cost_side, "SideProcess", FakeSide)
    source = Artifact("0", ArtifactRecord("checkpoint", (), {"weight_bytes": 1}), tmp_path)
    side = Artifact("0", ArtifactRecord("onnx", (), {}), tmp_path)
    remarks = {}
    for percent in (10.0, 60.0):
        monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percent=percent: percent)
        notes: list[str] = []
        inputs = {"artifact": side, "reference": side, "source": source}
        run_stage("validate.cost", inputs, notes=notes, repeats=1, passes=1)
        remarks[percent] = notes
    assert remarks[10.0] == []
    assert "60%" in remarks[60.0][0]


def test_peak_memory_is_that_of_the_artifact_alone(exported: Make, tmp_path: Path) -> None:
    """A graph with 96 MiB more of weights needs about that much more; the parent's memory counts nothing."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    from ...targets.toy import write_toy

    small, large = (write_toy(tmp_path / name) for name in ("small", "large"))
    model = onnx.load(large / "model.onnx")
    ballast = numpy_helper.from_array(np.ones((24 << 20,), np.float32), "ballast")
    model.graph.initializer.append(ballast)
    zero = onnx.helper.make_node("ReduceMin", ["ballast"], ["least"], keepdims=0)
    shift = onnx.helper.make_node("Mul", ["logits_raw", "least"], ["logits"])
    model.graph.node[-1].output[0] = "logits_raw"
    model.graph.node.extend([zero, shift])
    onnx.save(model, large / "model.onnx")
    held = np.ones(64 << 20, np.float32)  # 256 MiB of this process, which must not show
    peaks = {}
    for directory in (small, large):
        side = SideProcess(str(directory), threads=1)
        try:
            side.ask("load")
            side.ask("prefill", 8)
            peaks[directory.name] = int(str(side.ask("memory")["peak_bytes"]))
        finally:
            side.close()
    assert held.sum() > 0
    assert peaks["small"] < 200 << 20
    assert peaks["large"] - peaks["small"] > 90 << 20


def test_an_artifact_that_cannot_be_opened_is_the_childs_own_error(tmp_path: Path) -> None:
    side = SideProcess(str(tmp_path), threads=1)
    try:
        with pytest.raises(InputError, match=r"no ingot\.json"):
            side.ask("load")
    finally:
        side.close()


def test_a_killed_child_is_a_stage_error_with_its_signal(tmp_path: Path) -> None:
    side = SideProcess(str(tmp_path), threads=1)
    side._process.kill()
    try:
        with pytest.raises(StageError, match="killed by signal 9"):
            side.ask("load")
    finally:
        side.close()


def test_a_child_ends_with_its_parents_pipe(tmp_path: Path) -> None:
    side = SideProcess(str(tmp_path), threads=1)
    side.close()
    assert side._process.returncode == 0
