"""The stage `export.onnx_mobile`: the .ort beside the .onnx says the same, and lists what it needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from ingot.artifacts.errors import InputError
from ingot.stages.export.onnx import ort_format
from ingot.targets.runtimes import onnx_file
from ingot.targets.runtimes.base import Sampling
from ingot.targets.runtimes.opening import open_session

if TYPE_CHECKING:
    from pathlib import Path

IDS = np.arange(40, 64, dtype=np.int64).reshape(2, 12)


def logits_of(path: Path, file: str) -> Any:
    """What onnxruntime computes from one file for IDS, all of its past empty."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path / file), providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {}
    for value in session.get_inputs():
        if value.name == "input_ids":
            feeds[value.name] = IDS
        elif value.name == "attention_mask":
            feeds[value.name] = np.ones_like(IDS)
        elif value.name == "position_ids":
            feeds[value.name] = np.tile(np.arange(IDS.shape[1]), (2, 1))
        elif value.name == "token_type_ids":
            feeds[value.name] = np.zeros_like(IDS)
        else:
            feeds[value.name] = np.zeros((2, value.shape[1], 0, value.shape[3]), np.float32)
    return session.run(None, feeds)[0]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert"])
def test_both_formats_compute_the_same(family: str, tiny_checkpoint: Any, run_stage: Any) -> None:
    made = run_stage("export.onnx_mobile", {"model": tiny_checkpoint(family)})
    np.testing.assert_allclose(
        logits_of(made.path, "model.ort"), logits_of(made.path, "model.onnx"), atol=2e-5
    )


@pytest.mark.parametrize(
    ("quantizer", "params"),
    [("quantize.dynamic", {}), ("quantize.rtn", {"bits": 4, "group_size": 32})],
)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert"])
def test_int8_and_int4_codes_reach_both_formats(
    quantizer: str, params: dict[str, object], family: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    quantized = run_stage(quantizer, {"model": tiny_checkpoint(family)}, **params)
    made = run_stage("export.onnx_mobile", {"model": quantized})
    np.testing.assert_allclose(
        logits_of(made.path, "model.ort"), logits_of(made.path, "model.onnx"), atol=2e-5
    )
    sizes = {path.name: path.stat().st_size for path in made.path.iterdir()}
    plain = run_stage("export.onnx_mobile", {"model": tiny_checkpoint(family)})
    assert sizes["model.ort"] < 0.75 * (plain.path / "model.ort").stat().st_size


@pytest.mark.parametrize("run_file", ["ort", "onnx"])
@pytest.mark.parametrize("quantizer", ["quantize.dynamic", "quantize.static"])
def test_activations_are_int8_whatever_their_zero_point_so_that_products_are_exact_everywhere(
    quantizer: str, run_file: str, tiny_checkpoint: Any, run_stage: Any, text_file: Path
) -> None:
    """The independent truth is the graph of `export.onnx` with the option that makes its products exact."""
    given = {"calibration": str(text_file)} if quantizer == "quantize.static" else {}
    quantized = run_stage(quantizer, {"model": tiny_checkpoint("llama")}, **given)
    made = run_stage("export.onnx_mobile", {"model": quantized}, run_file=run_file)
    graph = onnx.load(made.path / "model.onnx").graph
    kinds = {value.name: value.data_type for value in graph.initializer}
    rounding = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert rounding
    assert {kinds[node.input[2]] for node in rounding} == {onnx.TensorProto.INT8}
    plain = run_stage("export.onnx", {"model": quantized})
    sessions: list[Any] = [open_session(each.path, threads=1) for each in (made, plain)]
    try:
        found, expected = (session.logits(IDS) for session in sessions)
    finally:
        for session in sessions:
            session.close()
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_session_opens_the_ort_file_and_generates(tiny_checkpoint: Any, run_stage: Any) -> None:
    made = run_stage("export.onnx_mobile", {"model": tiny_checkpoint("llama")})
    assert json.loads((made.path / "ingot.json").read_text())["file"] == "model.ort"
    assert made.facts["model_files"] == ["model.ort"]
    (made.path / "model.onnx").rename(made.path / "aside.onnx")
    session = open_session(made.path, threads=1)
    try:
        (row,) = session.generate([[5, 9, 11]], Sampling(max_new_tokens=4))  # type: ignore[union-attr]
    finally:
        session.close()
        (made.path / "aside.onnx").rename(made.path / "model.onnx")
    plain = open_session(run_stage("export.onnx", {"model": tiny_checkpoint("llama")}).path, threads=1)
    assert [row] == plain.generate([[5, 9, 11]], Sampling(max_new_tokens=4))
    plain.close()


def test_the_onnx_file_may_be_what_is_measured(tiny_checkpoint: Any, run_stage: Any) -> None:
    made = run_stage("export.onnx_mobile", {"model": tiny_checkpoint("llama")}, run_file="onnx")
    assert "file" not in json.loads((made.path / "ingot.json").read_text())
    assert made.facts["model_files"] == ["model.onnx"]


def test_the_list_of_operators_holds_every_operator_of_the_optimized_graph(
    tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    import onnxruntime

    quantized = run_stage("quantize.rtn", {"model": tiny_checkpoint("llama")}, bits=4)
    made = run_stage("export.onnx_mobile", {"model": quantized})
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        str(made.path / "model.onnx"), options, disabled_optimizers=["NchwcTransformer"]
    )
    wanted = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    lines = (made.path / "required_operators.config").read_text().splitlines()
    listed = {name for line in lines for name in line.split(";")[2].split(",")}
    assert "MatMulNBits" in listed
    assert wanted <= listed


def test_an_encoder_decoder_gets_both_graphs_in_both_formats(tiny_checkpoint: Any, run_stage: Any) -> None:
    made = run_stage("export.onnx_mobile", {"model": tiny_checkpoint("t5")})
    names = {path.name for path in made.path.iterdir()}
    assert {"model.onnx", "encoder.onnx", "model.ort", "encoder.ort"} <= names
    session = open_session(made.path, threads=1)
    plain = open_session(run_stage("export.onnx", {"model": tiny_checkpoint("t5")}).path, threads=1)
    try:
        prompts, sampling = [[5, 9, 11, 1]], Sampling(max_new_tokens=4)
        assert session.generate(prompts, sampling) == plain.generate(prompts, sampling)
    finally:
        session.close()
        plain.close()


def test_a_graph_above_the_size_of_a_flatbuffer_is_refused(
    tiny_checkpoint: Any, run_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_format, "MOST_BYTES", 100_000)
    with pytest.raises(InputError, match=r"an \.ort file holds 100,000"):
        run_stage("export.onnx_mobile", {"model": tiny_checkpoint("llama")})


def test_a_file_that_is_no_ort_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "model.ort").write_bytes(b"\x20\x00\x00\x00ONNXmore")
    with pytest.raises(InputError, match="not in the format of onnxruntime"):
        onnx_file.check_ort_file(tmp_path / "model.ort")
