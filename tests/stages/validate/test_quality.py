"""`validate.quality` on tiny models: its numbers against transformers, and the faults that it must show."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import StageError
from ingot.stages.model import logits_store

from .conftest import measured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.artifacts.manifest import Artifact

    RunStage = Callable[..., Artifact]
    Make = Callable[..., Artifact]

ENCODERS = ["bert", "roberta", "distilbert"]
FAMILIES = ["llama", "llama-tied", "qwen2", "qwen3", "gpt2", "t5", "bart", *ENCODERS]


@pytest.fixture(scope="session")
def quality(run_stage: RunStage, reference: Make, exported: Make) -> Callable[..., tuple[Any, Any]]:
    """The measurements and samples of a family's export: ``(family, bits=0, threads=1)``."""

    def measure(family: str, bits: int = 0, threads: int = 1) -> tuple[Any, Any]:
        inputs = {"artifact": exported(family, bits), "reference": reference(family)}
        return measured(run_stage("validate.quality", inputs, threads=threads))

    return measure


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unquantized_export_is_the_reference(quality: Callable[..., Any], family: str) -> None:
    found, samples = quality(family)
    metrics = found["metrics"]
    assert metrics["parity_max_error"]["value"] < 1e-4
    assert len(found["parity"]) == (3 if family in ENCODERS else 4)
    assert all(case["top1"] == 1.0 for case in found["parity"].values())
    if family in ENCODERS:
        assert metrics["cosine"]["value"] == pytest.approx(1.0, abs=1e-9)
        assert set(samples) == {"document", "tokens", "cosine"}
    else:
        assert metrics["perplexity"]["value"] == pytest.approx(metrics["perplexity"]["reference"], rel=1e-5)
        assert metrics["kl_divergence"]["value"] == pytest.approx(0, abs=1e-6)
        assert metrics["top1_agreement"]["value"] == 1.0


def test_a_quantized_artifacts_numbers_are_those_of_its_own_weights_in_transformers(
    quality: Callable[..., Any],
    run_stage: RunStage,
    tiny_checkpoint: Callable[..., Path],
    reference: Make,
    tmp_path: Path,
) -> None:
    """The dequantized weights in torch float32, scored with torch alone."""
    import torch
    from ingot.stages.model.quantized import QuantizedCheckpoint
    from safetensors.numpy import load_file, save_file
    from transformers import AutoModelForCausalLM

    found, _ = quality("llama", bits=3)
    quantized = QuantizedCheckpoint.open(
        run_stage("quantize.rtn", {"model": tiny_checkpoint("llama")}, bits=3).path
    )
    shutil.copytree(tiny_checkpoint("llama"), tmp_path / "restored")
    tensors = load_file(tmp_path / "restored" / "model.safetensors")
    tensors.update({name: quantized.weight(name).dequantize() for name in quantized.quantized})
    save_file(tensors, tmp_path / "restored" / "model.safetensors", metadata={"format": "pt"})
    original = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama"), dtype=torch.float32).eval()
    restored = AutoModelForCausalLM.from_pretrained(tmp_path / "restored", dtype=torch.float32).eval()
    windows = logits_store.read(reference("llama").path).windows
    loss = kl = same = 0.0
    for row in np.split(np.array(windows.ids), windows.starts[1:]):
        ids = torch.from_numpy(row)[None]
        with torch.no_grad():
            p = original(ids).logits[0, :-1].double().log_softmax(-1)
            q = restored(ids).logits[0, :-1].double().log_softmax(-1)
        loss -= float(q[torch.arange(len(row) - 1), ids[0, 1:]].sum())
        kept = p.topk(20).indices
        p_kept, q_kept = p.gather(1, kept), q.gather(1, kept)
        p_tail, q_tail = 1 - p_kept.exp().sum(-1), 1 - q_kept.exp().sum(-1)
        kl += float((p_kept.exp() * (p_kept - q_kept)).sum() + (p_tail * (p_tail / q_tail).log()).sum())
        same += float((p.argmax(-1) == q.argmax(-1)).sum())
    tokens = windows.tokens - windows.count
    metrics = found["metrics"]
    # Blocks of activations are rounded to int8 by the kernel, which torch does not do: hence the tolerances.
    assert metrics["perplexity"]["value"] == pytest.approx(math.exp(loss / tokens), rel=0.02)
    assert metrics["kl_divergence"]["value"] == pytest.approx(kl / tokens, rel=0.05)
    assert metrics["top1_agreement"]["value"] == pytest.approx(same / tokens, abs=0.03)
    assert metrics["kl_divergence"]["value"] > 0.01


def test_metrics_add_up_from_their_samples(quality: Callable[..., Any]) -> None:
    found, samples = quality("qwen2", bits=4)
    tokens = sum(samples["tokens"])
    metrics = found["metrics"]
    assert len({len(column) for column in samples.values()}) == 1
    for name in ("perplexity", "kl_divergence", "top1_agreement"):
        counts = {key: metrics[name][key] for key in ("n", "tokens", "documents")}
        assert counts == {"n": len(samples["tokens"]), "tokens": tokens, "documents": 5}
    assert metrics["perplexity"]["value"] == pytest.approx(math.exp(sum(samples["nll_value"]) / tokens))
    assert metrics["perplexity"]["reference"] == pytest.approx(
        math.exp(sum(samples["nll_reference"]) / tokens)
    )
    assert metrics["kl_divergence"]["value"] == pytest.approx(sum(samples["kl"]) / tokens)
    assert metrics["top1_agreement"]["value"] == pytest.approx(sum(samples["top1"]) / tokens)


def test_an_encoders_cosine_falls_with_the_bits(quality: Callable[..., Any]) -> None:
    cosines = []
    for bits in (8, 3):
        found, samples = quality("bert", bits=bits)
        weighted = sum(c * t for c, t in zip(samples["cosine"], samples["tokens"], strict=True))
        assert found["metrics"]["cosine"]["value"] == pytest.approx(weighted / sum(samples["tokens"]))
        cosines.append(found["metrics"]["cosine"]["value"])
    assert 1 > cosines[0] > 0.99 > cosines[1] > 0


def test_the_number_of_threads_changes_no_number(quality: Callable[..., Any]) -> None:
    assert quality("llama", bits=4, threads=3) == quality("llama", bits=4)


def test_what_was_measured_is_on_record(quality: Callable[..., Any], reference: Make) -> None:
    found, _ = quality("llama")
    assert (found["schema"], found["kind"], found["task"]) == (
        "ingot/measurements/v1",
        "quality",
        "causal-lm",
    )
    versions = {"perplexity": 1, "kl_divergence": 1, "top1_agreement": 1, "parity_max_error": 1}
    assert found["data"] == {**reference("llama").facts, "versions": versions}
    assert found["environment"]["runtime"] == "onnxruntime"
    perplexity = found["metrics"]["perplexity"]
    assert (perplexity["unit"], perplexity["better"], perplexity["comparison"]) == (
        "ppl",
        "lower",
        "relative",
    )


def test_neither_torch_nor_transformers_is_imported(
    run_stage: RunStage, reference: Make, exported: Make, tmp_path: Path
) -> None:
    import subprocess
    import sys

    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ingot.stages.model import logits_store, parity\n"
        "from ingot.stages.validate import cost, quality\n"
        "from ingot.targets.runtimes import onnx\n"
        "loaded = {'numpy', 'onnxruntime'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "session = onnx.open(Path(sys.argv[1]), threads=1)\n"
        "parity.measure(session, logits_store.read(Path(sys.argv[2])).parity)\n"
        "loaded = {'torch', 'transformers', 'onnx'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    paths = [str(exported("llama").path), str(reference("llama").path)]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def spoiled(artifact: Artifact, target: Path, **changes: object) -> Artifact:
    """A copy of an export whose ingot.json says something else."""
    shutil.copytree(artifact.path, target)
    about = target / "ingot.json"
    for path in (target, about):
        path.chmod(0o755)
    about.write_text(json.dumps({**json.loads(about.read_text()), **changes}))
    return replace(artifact, path=target)


@pytest.mark.parametrize("changes", [{"vocabulary": 319}, {"task": "encoder"}])
def test_an_artifact_of_another_kind_than_the_reference_is_refused(
    run_stage: RunStage, reference: Make, exported: Make, tmp_path: Path, changes: dict[str, object]
) -> None:
    other = spoiled(exported("llama"), tmp_path / "other", **changes)
    with pytest.raises(StageError, match=next(iter(changes))):
        run_stage("validate.quality", {"artifact": other, "reference": reference("llama")})


def test_output_that_is_not_a_number_is_on_record_as_nan(
    run_stage: RunStage, reference: Make, exported: Make, tmp_path: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    target = tmp_path / "nan"
    shutil.copytree(exported("llama").path, target)
    for path in (target, target / "model.onnx"):
        path.chmod(0o755)
    model = onnx.load(target / "model.onnx")
    norm = next(each for each in model.graph.initializer if each.name == "model.norm.weight")
    values = numpy_helper.to_array(norm).copy()
    values[0] = np.nan
    norm.CopyFrom(numpy_helper.from_array(values, norm.name))
    onnx.save(model, target / "model.onnx")
    broken = replace(exported("llama"), path=target)
    found, samples = measured(
        run_stage("validate.quality", {"artifact": broken, "reference": reference("llama")})
    )
    for name in ("perplexity", "kl_divergence", "parity_max_error"):
        assert (found["metrics"][name]["value"], found["metrics"][name]["nan"]) == (None, True)
    assert found["metrics"]["perplexity"]["reference"] > 1
    assert found["metrics"]["top1_agreement"]["value"] == 0
    assert set(samples["nll_value"]) == set(samples["kl"]) == {None}
    assert found["parity"]["decode"]["max_error"] is None


def test_the_gate_reads_what_was_written(
    quality: Callable[..., Any], run_stage: RunStage, reference: Make, exported: Make
) -> None:
    from ingot.pipeline import measurements

    inputs = {"artifact": exported("gpt2", 4), "reference": reference("gpt2")}
    artifact = run_stage("validate.quality", inputs)
    found = measurements.read(artifact.path)
    document, samples = measured(artifact)
    assert found.metrics["perplexity"].value == document["metrics"]["perplexity"]["value"]
    assert list(found.columns["nll_value"]) == samples["nll_value"]
