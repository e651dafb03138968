"""The stage `export.onnx`: what it writes beside the graph, what it states, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from ingot.artifacts.errors import IntakeError, RequirementError, StageError
from ingot.artifacts.schema import build
from ingot.stages.base import get
from ingot.stages.export.onnx import check
from ingot.stages.export.onnx.graph import GraphBuilder
from ingot.stages.export.onnx.stage import OnnxParams, requirements
from ingot.stages.export.onnx.writer import model_header

from .conftest import quantize
from .oracle import OnnxModel

if TYPE_CHECKING:
    from pathlib import Path


def edit_tensors(source: Path, target: Path, change: Any) -> Path:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def test_the_session_file_describes_the_graph(tiny_checkpoint: Any, export: Any) -> None:
    exported = export(tiny_checkpoint("qwen3"))
    session = json.loads((exported.directory / "ingot.json").read_text())
    loaded = OnnxModel(exported.directory).session
    assert session["schema"] == "ingot/session/v1"
    assert session["inputs"] == [value.name for value in loaded.get_inputs()]
    assert session["outputs"] == [value.name for value in loaded.get_outputs()]
    assert [value.name for value in loaded.get_overridable_initializers()] == [session["logits_from"]]
    sizes = ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocabulary", "context")
    assert [session[name] for name in sizes] == [2, 64, 4, 2, 32, 320, 128]
    assert (session["bos_id"], session["eos_ids"], session["pad_id"]) == (0, [1], 2)
    model = onnx.load(exported.directory / "model.onnx")
    assert session["requires"]["opset"] == model.opset_import[0].version
    assert session["requires"]["ir_version"] == model.ir_version
    assert session["past"].format(layer=1, part="value") in session["inputs"]
    assert session["present"].format(layer=1, part="key") in session["outputs"]


def test_batch_sequence_and_past_are_dynamic_and_all_else_is_fixed(tiny_checkpoint: Any, export: Any) -> None:
    session = OnnxModel(export(tiny_checkpoint("llama")).directory).session
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert shapes["input_ids"] == ["batch", "sequence"]
    assert shapes["attention_mask"] == ["batch", "total"]
    assert shapes["past_key_values.0.key"] == ["batch", 2, "past", 16]
    assert shapes["present.1.value"] == ["batch", 2, "total", 16]
    assert shapes["logits"] == ["batch", "kept", 320]


def test_an_encoder_session_has_no_cache(tiny_checkpoint: Any, export: Any) -> None:
    session = json.loads((export(tiny_checkpoint("bert")).directory / "ingot.json").read_text())
    assert session["task"] == "encoder"
    assert session["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert session["outputs"] == ["last_hidden_state"]
    assert session["past"] is None


def test_the_float_graph_uses_operators_of_onnx_alone(tiny_checkpoint: Any, export: Any) -> None:
    assert export(tiny_checkpoint("qwen2")).result.facts["domains"] == []


def test_tokenizer_and_configs_are_copied_unchanged(tiny_checkpoint: Any, export: Any) -> None:
    source = tiny_checkpoint("llama")
    target = export(source).directory
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (target / name).read_bytes() == (source / name).read_bytes()


def test_the_facts_count_every_parameter_at_its_width(
    tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    source = tiny_checkpoint("llama")
    names = {
        "model.layers.0.mlp.up_proj.weight": {"bits": 4, "group_size": 32},
        "model.layers.1.mlp.up_proj.weight": {"bits": 8, "activation": "dynamic"},
    }
    quantize(source, tmp_path / "q", names)
    facts = export(tmp_path / "q", "quantized-checkpoint").result.facts
    widths = facts["weights_by_width"]
    assert widths["int4"] == {"tensors": 1, "parameters": 160 * 64}
    assert widths["int8"] == {"tensors": 1, "parameters": 160 * 64}
    from safetensors.numpy import load_file

    everything = sum(tensor.size for tensor in load_file(source / "model.safetensors").values())
    assert facts["parameters"] == everything
    assert sum(entry["parameters"] for entry in widths.values()) == everything
    assert facts["domains"] == ["com.microsoft"]


def test_int8_activations_ask_for_exact_sums_on_old_processors(
    tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    quantize(
        tiny_checkpoint("llama"), tmp_path / "q", {"lm_head.weight": {"bits": 8, "activation": "dynamic"}}
    )
    exported = export(tmp_path / "q", "quantized-checkpoint").directory
    session = json.loads((exported / "ingot.json").read_text())
    assert session["session_options"] == {"session.x64quantprecision": "1"}


def test_a_quantized_checkpoint_without_a_quantized_weight_is_refused(
    tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    quantize(tiny_checkpoint("llama"), tmp_path / "q", {})
    with pytest.raises(StageError, match="no quantized weight arrived"):
        export(tmp_path / "q", "quantized-checkpoint")


def test_a_tensor_that_the_network_lacks_is_not_dropped(
    tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    def add(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.adapter.weight"] = np.ones((2, 2), np.float32)

    source = edit_tensors(tiny_checkpoint("llama"), tmp_path / "extra", add)
    with pytest.raises(
        IntakeError, match=r"model\.layers\.0\.adapter\.weight is not part of a llama network"
    ):
        export(source)


def test_a_missing_tensor_is_named(tiny_checkpoint: Any, export: Any, tmp_path: Path) -> None:
    source = edit_tensors(
        tiny_checkpoint("llama"), tmp_path / "less", lambda tensors: tensors.pop("lm_head.weight")
    )
    with pytest.raises(IntakeError, match=r"the tensor lm_head\.weight is missing"):
        export(source)


def test_a_tensor_of_another_shape_than_the_config_says_is_named(
    tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    def cut(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:100]

    source = edit_tensors(tiny_checkpoint("llama"), tmp_path / "cut", cut)
    with pytest.raises(IntakeError, match=r"has the shape \[100, 64\], the config asks for \[320, 64\]"):
        export(source)


def test_a_tensor_of_integers_is_no_weight(tiny_checkpoint: Any, export: Any, tmp_path: Path) -> None:
    def turn(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.int64)

    source = edit_tensors(tiny_checkpoint("llama"), tmp_path / "int", turn)
    with pytest.raises(IntakeError, match="is I64, not a floating-point weight"):
        export(source)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"opset_range": [17, 22]}, "opset 23 within the target's 17 to 22"),
        ({"ir_version_range": [8, 10]}, "IR version 11 within the target's 8 to 10"),
    ],
)
def test_a_runtime_that_is_too_old_is_known_before_the_export(
    ranges: dict[str, Any], message: str, tiny_checkpoint: Any, export: Any
) -> None:
    unmet = [r.name for r in requirements(build(OnnxParams, ranges)) if not r.met]
    assert len(unmet) == 1
    assert message in unmet[0]
    with pytest.raises(RequirementError, match=message):
        export(tiny_checkpoint("llama"), **ranges)


def test_opset_24_loads_and_computes(tiny_checkpoint: Any, export: Any) -> None:
    exported = export(tiny_checkpoint("llama"), opset=24)
    assert onnx.load(exported.directory / "model.onnx").opset_import[0].version == 24
    feeds = {
        "input_ids": np.array([[5, 6]]), "attention_mask": np.ones((1, 2), np.int64),
        "position_ids": np.array([[0, 1]]),
    }  # fmt: skip
    assert np.isfinite(OnnxModel(exported.directory)(feeds)[0]).all()


def test_an_invalid_graph_is_refused_before_it_is_written() -> None:
    builder = GraphBuilder()
    builder.output("nothing_makes_this", "float32", ("batch",))
    with pytest.raises(StageError, match="not valid ONNX"):
        check.check_structure(builder.finish("broken"), model_header(23, 11, ()))


def test_a_file_that_the_runtime_refuses_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(StageError, match="does not load the exported graph") as caught:
        check.check_loads(tmp_path / "model.onnx")
    assert "\n" not in caught.value.what


def test_finding_the_stage_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ingot.stages.base import get; get('export.onnx'); "
        "print({'numpy', 'onnx', 'onnxruntime', 'torch'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
    assert get("export.onnx").determinism == "bitwise"


def test_exporting_imports_no_torch(tiny_checkpoint: Any, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from ingot.stages.export.onnx.build import build
from ingot.stages.export.onnx.linear import Form
from ingot.stages.export.onnx.weights import Weights
from ingot.stages.model.checkpoint import Checkpoint
checkpoint = Checkpoint.open(Path({str(tiny_checkpoint("llama"))!r}))
build(checkpoint.architecture, Weights(checkpoint, None), Form(4))
print('torch' in sys.modules, 'transformers' in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
