"""The sandbox of emulated processors: what it needs, says and counts, and programs in it where it is."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError, RequirementError, StageError
from ingot.artifacts.schema import build
from ingot.stages.validate import emulated_arm
from ingot.targets.emulated import sandbox, setup
from ingot.targets.host import parse_cpuinfo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without a sandbox in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ingot-arm-emulation"


def test_without_a_sandbox_the_stage_asks_for_the_command_that_makes_it(cache: Path) -> None:
    (found,) = emulated_arm.requirements(emulated_arm.EmulatedParams())
    assert (found.met, found.is_device, found.fix) == (False, True, "ingot setup arm-emulation")
    cache.mkdir()
    (cache / "ready.json").write_text(json.dumps({"layout": sandbox.LAYOUT, "versions": {"numpy": "2.4.6"}}))
    assert emulated_arm.requirements(emulated_arm.EmulatedParams())[0].met
    assert emulated_arm.versions(emulated_arm.EmulatedParams()) == {"emulated numpy": "2.4.6"}
    (cache / "ready.json").write_text(json.dumps({"layout": -1, "versions": {}}))
    assert sandbox.installed() is None


@pytest.mark.parametrize(("name", "has_dot"), [("cortex-a53", False), ("cortex-a76", True)])
def test_a_processor_lists_the_dot_product_where_it_has_it(name: str, has_dot: bool) -> None:
    _, features = parse_cpuinfo(sandbox.PROCESSORS[name].cpuinfo())
    assert ("asimddp" in features) is has_dot
    assert "asimd" in features


def test_tools_that_are_missing_are_named_with_their_packages(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name.startswith("aarch64") else f"/bin/{name}")
    with pytest.raises(RequirementError, match=r"g\+\+-aarch64-linux-gnu") as caught:
        setup.set_up(lambda _line: None)
    assert caught.value.fix == "apt-get install g++-aarch64-linux-gnu"
    assert not cache.exists()


def test_a_step_that_fails_leaves_the_sandbox_as_it_was(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (cache / "ready.json").write_text("{}")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    failed = subprocess.CompletedProcess([], 1, "", "first\nno such package\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(StageError, match="no such package"):
        setup.set_up(lambda _line: None)
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    assert (cache / "ready.json").read_text() == "{}"


def test_counts_between_the_marks_are_read_and_those_of_loading_left_out(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "COUNT all=900 dot=9\nCOUNT all=500 dot=40\nnoise\nCOUNT all=70 dot=8\n"
    done = subprocess.CompletedProcess([], 0, "peak_kb 3000 before_kb 1000\n", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    ran = sandbox.run(tmp_path / "m.pte", tmp_path / "i", tmp_path / "o", "causal-lm", "cortex-a76", 5)
    assert ran.counts == ((500, 40), (70, 8))
    assert (ran.peak_bytes, ran.grown_bytes) == (3000 * 1024, 2000 * 1024)


def test_an_illegal_instruction_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], -4, "", "qemu: uncaught target signal 4\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(StageError, match="SIGILL"):
        sandbox.run(tmp_path / "m.pte", tmp_path / "i", tmp_path / "o", "causal-lm", "cortex-a53", 5)


def test_a_processor_that_is_not_known_is_refused() -> None:
    with pytest.raises(RecipeError, match="'cortex-a9' is not one of cortex-a53"):
        build(emulated_arm.EmulatedParams, {"processors": ["cortex-a9"]})


def test_windows_are_written_as_the_runner_reads_them_and_results_split_by_them(tmp_path: Path) -> None:
    windows = [np.array([4, 5, 6]), np.array([7, 8])]
    emulated_arm._write(tmp_path / "in", windows)
    assert np.fromfile(tmp_path / "in", np.int64).tolist() == [3, 4, 5, 6, 2, 7, 8]
    np.arange(10, dtype=np.float32).tofile(tmp_path / "out")
    first, second = emulated_arm._read(tmp_path / "out", windows)
    assert (first.shape, second.tolist()) == ((3, 2), [[6, 7], [8, 9]])


def test_a_score_far_from_the_hosts_is_refused_whichever_is_better() -> None:
    emulated_arm._check("cortex-a76", 20.05, 20.0, 0.5)
    emulated_arm._check("cortex-a76", 19.95, 20.0, 0.5)
    with pytest.raises(StageError, match=r"0\.5 % apart"):
        emulated_arm._check("cortex-a76", 20.2, 20.0, 0.5)
    with pytest.raises(StageError, match="apart"):
        emulated_arm._check("cortex-a76", 0.98, 0.99, 0.5)
    with pytest.raises(StageError, match="apart"):
        emulated_arm._check("cortex-a76", 15.0, 20.0, 0.5)
    with pytest.raises(StageError, match="apart"):
        emulated_arm._check("cortex-a76", float("nan"), 20.0, 0.5)


@pytest.mark.device
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("run_file", ["ort", "onnx"])
def test_the_bundled_model_scores_on_an_emulated_processor_as_it_does_here(
    run_file: str, run_stage: Any
) -> None:
    from ingot.pipeline import demo

    folder = type(sandbox.SOURCES)(demo.__file__).parent
    source = run_stage("load", {}, model=str(folder / "wikitext-llama-4m"))
    evaluation = str(folder / "data/evaluation.jsonl")
    reference = run_stage("validate.reference", {"model": source}, evaluation=evaluation, max_tokens=512)
    quantized = run_stage("quantize.dynamic", {"model": source})
    made = run_stage("export.onnx_mobile", {"model": quantized}, run_file=run_file)
    given: dict[str, Any] = {"artifact": made, "reference": reference}
    found = run_stage("validate.emulated_arm", given, tokens=256)
    document = json.loads((found.path / "measurements.json").read_text())
    old, new = (document["emulated"][name] for name in ("cortex-a53", "cortex-a76"))
    assert document["data"]["tokens"] >= 256
    for entry in (old, new):
        assert entry["perplexity"] == pytest.approx(document["host"]["perplexity"], rel=0.005)
    # The dot product does four multiplications at once, so kernels with it need far fewer instructions.
    assert old["instructions_per_token"] >= 1.5 * new["instructions_per_token"]
    assert old["dot_products_per_token"] == 0 < new["dot_products_per_token"]
