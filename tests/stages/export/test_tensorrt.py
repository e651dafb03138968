"""Engines: what is asked of the machine beforehand, what a refusal says, and engines that are built."""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ingot
import pytest
from ingot.artifacts.errors import InputError, RequirementError, StageError
from ingot.stages.export.tensorrt import stage as module
from ingot.stages.export.tensorrt.engine import parse_error, refused
from ingot.stages.export.tensorrt.stage import TensorrtParams, requirements
from ingot.targets.gpu import Gpu
from ingot.targets.libraries import RTX_SM

ONNX, ENGINE = "export.onnx_nvidia", "export.tensorrt"
HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="needs pip install 'ingot[nvidia]'")
HOPPER = Gpu("H100", "90", 80 << 30, 1980, 2619, "13.0")


def unmet(monkeypatch: Any, found: str, gpus: tuple[Gpu, ...] = (), **params: Any) -> list[tuple[str, str]]:
    monkeypatch.setattr(module, "tensorrt_library", lambda: found)
    monkeypatch.setattr(module, "probe", lambda: gpus)
    monkeypatch.setattr(module, "version_of", lambda name: "1.7" if name == found else None)
    return [(each.name, each.fix) for each in requirements(TensorrtParams(**params)) if not each.met]


def test_a_missing_library_is_named_with_the_extra_that_brings_it(monkeypatch: Any) -> None:
    ((name, fix),) = unmet(monkeypatch, "none", sm=89)
    assert name == "tensorrt_rtx, which builds engines"
    assert fix == "pip install 'ingot[nvidia]'"
    ((name, fix),) = unmet(monkeypatch, "none", library="tensorrt")
    assert name == "tensorrt, which builds engines"
    assert "whole of TensorRT" in fix


@pytest.mark.parametrize("sm", RTX_SM)
def test_tensorrt_rtx_builds_for_what_it_knows_without_a_gpu(sm: int, monkeypatch: Any) -> None:
    assert unmet(monkeypatch, "tensorrt_rtx", sm=sm) == []


def test_tensorrt_rtx_has_no_hopper(monkeypatch: Any) -> None:
    ((name, fix),) = unmet(monkeypatch, "tensorrt_rtx", sm=90)
    assert name == "a TensorRT-RTX for SM 90"
    assert "aoti_cuda" in fix


def test_stripping_weights_takes_a_gpu(monkeypatch: Any) -> None:
    ((_, fix),) = unmet(monkeypatch, "tensorrt_rtx", sm=89, strip_weights=True)
    assert fix == "set export.strip_weights: false"
    assert unmet(monkeypatch, "tensorrt_rtx", (HOPPER,), sm=89, strip_weights=True) == []


def test_the_whole_of_tensorrt_builds_for_the_gpu_that_is_here(monkeypatch: Any) -> None:
    assert [name for name, _ in unmet(monkeypatch, "tensorrt")] == ["a GPU, for which tensorrt builds"]
    assert unmet(monkeypatch, "tensorrt", (HOPPER,), sm=90) == []
    assert [name for name, _ in unmet(monkeypatch, "tensorrt", (HOPPER,), sm=89)] == [
        "a GPU of SM 89, for which tensorrt builds"
    ]


@dataclass
class ParserError:
    """As TensorRT's parser gives it."""

    name: str
    operator: str
    words: str

    def node_name(self) -> str:
        return self.name

    def node_operator(self) -> str:
        return self.operator

    def desc(self) -> str:
        return self.words


class Parser:
    def __init__(self, *errors: ParserError) -> None:
        self.errors = errors
        self.num_errors = len(errors)

    def get_error(self, index: int) -> ParserError:
        return self.errors[index]


def test_a_refusal_names_the_nodes_and_drops_the_assertion_that_states_it() -> None:
    words = "Assertion failed: node.output().size() == 1: TensorRT only supports Attention with one output."
    parser = Parser(
        ParserError("layers.0/Attention_34", "Attention", words), ParserError("n", "NonZero", "false")
    )
    error = parse_error("model.onnx", "tensorrt_rtx", refused(parser))
    assert str(error.what) == (
        "tensorrt_rtx does not take model.onnx: layers.0/Attention_34 (Attention): TensorRT only supports "
        "Attention with one output.; n (NonZero): false"
    )
    assert "Attention, NonZero" in str(error.fix)


def test_many_refused_nodes_are_counted() -> None:
    parser = Parser(*(ParserError(f"n{index}", "Unique", "no") for index in range(8)))
    assert "; and 3 more" in parse_error("model.onnx", "tensorrt_rtx", refused(parser)).what


def test_without_a_library_the_stage_says_so_before_it_reads_anything(
    monkeypatch: Any, export: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "tensorrt_library", lambda: "none")
    monkeypatch.setattr(module, "version_of", lambda name: None)
    with pytest.raises(RequirementError, match="tensorrt_rtx, which builds engines"):
        export(tmp_path, "onnx", ENGINE)


@pytest.mark.device
@needs_rtx
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert"])
@pytest.mark.parametrize("sm", [80, 89, 120])
def test_engines_are_built_without_a_gpu(family: str, sm: int, tiny_checkpoint: Any, export: Any) -> None:
    graph = export(tiny_checkpoint(family), stage=ONNX, sm=sm, sequence=[16, 64])
    made = export(graph.directory, "onnx", ENGINE, sm=sm)
    about = json.loads((made.directory / "engine.json").read_text())
    assert (about["library"], about["sm"], about["weights_stripped"]) == ("tensorrt_rtx", sm, False)
    assert about["library_version"].startswith("1.")
    engine = about["engines"]["model.onnx"]
    assert (made.directory / engine["file"]).stat().st_size > 100_000
    assert engine["profiles"] == (["encode"] if family == "bert" else ["prefill", "decode"])
    assert not list(made.directory.glob("*.onnx"))
    assert (made.directory / "tokenizer.json").exists()
    assert json.loads((made.directory / "ingot.json").read_text())["format"] == "tensorrt-engine"


@pytest.mark.device
@needs_rtx
@pytest.mark.parametrize(
    ("quantize", "dtype", "sm"),
    [
        (None, "float16", 89), (None, "bfloat16", 80), ("quantize.dynamic", "float16", 80),
        ("quantize.rtn", "float16", 89), ("quantize.fp8", "float16", 120),
    ],
)  # fmt: skip
def test_the_bundled_model_becomes_an_engine_within_a_minute(
    quantize: str | None, dtype: str, sm: int, export: Any
) -> None:
    model = Path(ingot.__file__).parent / "pipeline" / "demo" / "wikitext-llama-4m"
    bits = {
        "quantize.rtn": {"bits": 4, "group_size": 32, "sym": True, "embedding_bits": 16, "lm_head_bits": 16}
    }
    directory, kind = model, "checkpoint"
    if quantize:
        directory, kind = (
            export(model, stage=quantize, **bits.get(quantize, {})).directory,
            "quantized-checkpoint",
        )
    started = time.process_time()
    graph = export(directory, kind, ONNX, dtype=dtype, sm=sm)
    made = export(graph.directory, "onnx", ENGINE, sm=sm)
    assert time.process_time() - started < 60
    inputs = json.loads((made.directory / "engine.json").read_text())["engines"]["model.onnx"]["inputs"]
    assert inputs["past_key_values.0.key"] == {"float16": "half", "bfloat16": "bf16"}[dtype]


@pytest.mark.device
@needs_rtx
def test_what_the_builder_refuses_is_an_error_with_its_reason(export: Any, make_from: Any) -> None:
    made = make_from("llama", "quantize.fp8")
    graph = export(made.artifact.path, "quantized-checkpoint", ONNX, sm=89)
    with pytest.raises(StageError, match="fp8_e4m3") as caught:
        export(graph.directory, "onnx", ENGINE, sm=80)
    assert "later one" in str(caught.value.fix)


@pytest.mark.device
@needs_rtx
def test_a_graph_of_onnxruntimes_is_refused_before_it_is_parsed(tiny_checkpoint: Any, export: Any) -> None:
    graph = export(tiny_checkpoint("llama"))
    with pytest.raises(InputError, match="no profiles of shapes") as caught:
        export(graph.directory, "onnx", ENGINE, sm=89)
    assert caught.value.fix == "make it with export.onnx_nvidia"
