"""Quantized checkpoints: the codes arrive as they are, and the graph computes with them."""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from ingot.artifacts.errors import CorruptError
from ingot.stages.export.onnx.packing import unpack_bits
from ingot.stages.model.families import Architecture, architecture
from ingot.stages.model.quantized import QuantizedCheckpoint
from numpy.testing import assert_allclose

from .conftest import quantize
from .oracle import OnnxModel, TorchModel, cases, largest_difference
from .variants import DECODERS, MIXTURES

if TYPE_CHECKING:
    from pathlib import Path

FIRST = {
    "llama": "LlamaForCausalLM",
    "llama-tied": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
CLASSES = {**FIRST, **dict.fromkeys(DECODERS, "AutoModelForCausalLM")}


def describe(directory: Path) -> Architecture:
    import json

    return architecture(json.loads((directory / "config.json").read_text()), "config.json")


def every_weight(directory: Path, **form: Any) -> dict[str, dict[str, Any]]:
    """Asks for ``form`` on all linear weights and for the same weight-only on the embedding."""
    model = describe(directory)
    names = {linear.name: {**form, "stored_in_out": linear.stored_in_out} for linear in model.linears}
    return {**names, model.embedding: {**form, "activation": "none"}}


def with_restored(directory: Path, target: Path, restored: dict[str, Any]) -> Path:
    """The checkpoint with its quantized weights replaced by what their codes stand for."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(directory, target)
    tensors = load_file(target / "model.safetensors")
    for name, value in restored.items():
        tensors[name] = np.ascontiguousarray(value)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize("family", FIRST)
@pytest.mark.parametrize(
    ("bits", "group", "sym"),
    [
        (8, 0, True),
        (8, 32, False),
        (4, 32, True),
        (4, 16, False),
        (3, 32, True),
        (2, 32, False),
        (2, 16, True),
    ],
)
def test_weight_only_graphs_compute_with_the_dequantized_weights(
    family: str, bits: int, group: int, sym: bool, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    directory = tiny_checkpoint(family)
    form = {"bits": bits, "group_size": group, "sym": sym}
    restored = quantize(directory, tmp_path / "quantized", every_weight(directory, **form))
    exported = export(tmp_path / "quantized", "quantized-checkpoint", accuracy_level=0)
    reference = TorchModel(with_restored(directory, tmp_path / "restored", restored), CLASSES[family])
    case = cases(320)["batch 2 padded on the left"]
    assert largest_difference(OnnxModel(exported.directory), reference, case) <= 1e-4
    assert exported.result.facts["weights_by_width"][f"int{bits}"]["tensors"] == len(restored)


@pytest.mark.parametrize(
    ("family", "bits"),
    [*((family, 4) for family in DECODERS), ("mixtral", 2), ("mixtral", 3), ("mixtral", 8)],
)
def test_later_decoders_compute_with_the_dequantized_weights(
    family: str, bits: int, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    directory = tiny_checkpoint(family)
    form = {"bits": bits, "group_size": 32, "sym": False}
    restored = quantize(directory, tmp_path / "quantized", every_weight(directory, **form))
    exported = export(tmp_path / "quantized", "quantized-checkpoint", accuracy_level=0)
    reference = TorchModel(with_restored(directory, tmp_path / "restored", restored), CLASSES[family])
    onnx_model = OnnxModel(exported.directory)
    for case in ("decoding with a past", "batch 2 padded on the left"):
        assert largest_difference(onnx_model, reference, cases(320)[case]) <= 1e-4
    assert exported.result.facts["weights_by_width"][f"int{bits}"]["tensors"] == len(restored)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_codes_in_the_graph_are_the_codes_of_the_checkpoint(
    bits: int, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    directory = tiny_checkpoint("llama")
    quantize(directory, tmp_path / "q", every_weight(directory, bits=bits, group_size=32, sym=False))
    model = onnx.load(export(tmp_path / "q", "quantized-checkpoint").directory / "model.onnx")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    source = QuantizedCheckpoint.open(tmp_path / "q")
    for name in source.quantized:
        weight = source.weight(name)
        rows, columns = weight.codes.shape
        codes = unpack_bits(arrays[f"{name}.codes"], bits).reshape(rows, -1)
        assert np.array_equal(codes[:, :columns], weight.codes)
        assert np.array_equal(arrays[f"{name}.scales"], weight.scales)
        zeros = (
            arrays[f"{name}.lookup_zeros"][..., 0]
            if name == "model.embed_tokens.weight"
            else unpack_bits(arrays[f"{name}.zeros"], bits)[:, : weight.zeros.shape[1]]
        )
        assert np.array_equal(zeros, weight.zeros)


@pytest.mark.parametrize("sym", [True, False])
def test_the_int8_codes_in_the_graph_are_the_codes_of_the_checkpoint_about_128(
    sym: bool, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    form = {"bits": 8, "sym": sym, "activation": "dynamic"}
    quantize(tiny_checkpoint("llama"), tmp_path / "q", {name: form})
    model = onnx.load(export(tmp_path / "q", "quantized-checkpoint").directory / "model.onnx")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weight = QuantizedCheckpoint.open(tmp_path / "q").weight(name)
    assert np.array_equal(arrays[f"{name}.codes"].astype(int) + 128, weight.codes.T)
    assert np.array_equal(arrays[f"{name}.scales"], weight.scales[:, 0])
    if not sym:
        assert np.array_equal(arrays[f"{name}.zeros"].astype(int) + 128, weight.zeros[:, 0])


@pytest.mark.parametrize(
    ("family", "sym"),
    [*itertools.product((*FIRST, "bert"), (True, False)), *((family, True) for family in DECODERS)],
)
def test_dynamic_int8_stays_within_the_rounding_of_activations(
    family: str, sym: bool, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    directory = tiny_checkpoint(family)
    form = {"bits": 8, "sym": sym, "activation": "dynamic"}
    restored = quantize(directory, tmp_path / "q", every_weight(directory, **form))
    exported = export(tmp_path / "q", "quantized-checkpoint")
    reference = TorchModel(
        with_restored(directory, tmp_path / "restored", restored), CLASSES.get(family, "AutoModel")
    )
    feeds = cases(320)["batch 2"].steps()[0]
    if family not in CLASSES:
        feeds.pop("position_ids")
    if family == "bert":
        feeds["token_type_ids"] = np.zeros_like(feeds["input_ids"])
    ours, _ = OnnxModel(exported.directory)(feeds)
    theirs = reference(feeds)[0] if family in CLASSES else reference.hidden(feeds)
    # Rounding to 1/127 of a row's largest value leaves about 1 % at each of the dozen products in a row; and
    # it may tip a router, where a token then goes through another expert.
    bound = 0.1 if family in MIXTURES else 0.06
    assert np.linalg.norm(ours - theirs) <= bound * np.linalg.norm(theirs)


def test_one_integer_product_is_what_rounding_each_token_by_itself_gives(
    tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    directory = tiny_checkpoint("llama")
    name = "lm_head.weight"
    restored = quantize(directory, tmp_path / "q", {name: {"bits": 8, "activation": "dynamic"}})
    path = export(tmp_path / "q", "quantized-checkpoint").directory / "model.onnx"
    model = onnx.load(path)
    (node,) = [n for n in model.graph.node if n.op_type == "Div"]
    hidden_name = node.input[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(hidden_name, 1, None))
    (tmp_path / "probe").mkdir()
    onnx.save(model, tmp_path / "probe" / "model.onnx")
    shutil.copy(path.parent / "ingot.json", tmp_path / "probe")
    probe = OnnxModel(tmp_path / "probe")
    feeds = cases(320)["prefill"].steps()[0]
    past = {
        v.name: np.zeros((1, 2, 0, 16), np.float32) for v in probe.session.get_inputs() if "past" in v.name
    }
    logits, hidden = probe.session.run(["logits", hidden_name], {**feeds, **past})
    scale = np.abs(hidden).max(-1, keepdims=True) / 127
    expected = (np.round(hidden / scale) * scale) @ restored[name].T
    assert_allclose(logits, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", *MIXTURES])
def test_a_token_does_not_depend_on_what_else_is_in_the_batch(
    family: str, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    directory = tiny_checkpoint(family)
    quantize(directory, tmp_path / "q", every_weight(directory, bits=8, activation="dynamic"))
    model = OnnxModel(export(tmp_path / "q", "quantized-checkpoint").directory)
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 320, (3, 12)), np.ones((3, 12), np.int64)
    positions = np.tile(np.arange(12), (3, 1))
    together, _ = model({"input_ids": ids, "attention_mask": mask, "position_ids": positions})
    for row in range(3):
        one = {"input_ids": ids[row : row + 1], "attention_mask": mask[:1], "position_ids": positions[:1]}
        assert_allclose(model(one)[0][0], together[row], atol=1e-6)


def test_a_tied_embedding_is_in_the_file_once(tiny_checkpoint: Any, export: Any, tmp_path: Path) -> None:
    directory = tiny_checkpoint("llama-tied")
    name = "model.embed_tokens.weight"
    quantize(directory, tmp_path / "q", {name: {"bits": 4, "group_size": 32}})
    model = onnx.load(export(tmp_path / "q", "quantized-checkpoint").directory / "model.onnx")
    users = {node.op_type for node in model.graph.node if f"{name}.codes" in node.input}
    assert users == {"GatherBlockQuantized", "MatMulNBits"}
    assert [t.name for t in model.graph.initializer if t.name.startswith(name)] == [
        f"{name}.scales",
        f"{name}.codes",
    ]


def test_an_embedding_whose_width_no_block_divides_is_looked_up_without_padding(
    export: Any, tmp_path: Path
) -> None:
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=40, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "m")
    form = every_weight(tmp_path / "m", bits=8, group_size=32, sym=False)
    restored = quantize(tmp_path / "m", tmp_path / "q", form)
    exported = export(tmp_path / "q", "quantized-checkpoint", accuracy_level=0)
    reference = TorchModel(with_restored(tmp_path / "m", tmp_path / "r", restored), "LlamaForCausalLM")
    case = cases(50)["batch 2"]
    assert largest_difference(OnnxModel(exported.directory), reference, case) <= 1e-4


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("codes", np.full((160, 64), 16, np.uint8), "holds the code 16 in 4 bits"),
        ("zeros", np.full((160, 2), 7, np.uint8), "not all 8"),
    ],
)
def test_codes_and_zero_points_that_contradict_the_record_are_refused(
    part: str, value: Any, message: str, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    name = "model.layers.0.mlp.up_proj.weight"
    quantize(tiny_checkpoint("llama"), tmp_path / "q", {name: {"bits": 4, "group_size": 32}})
    tensors = load_file(tmp_path / "q" / "model.safetensors")
    tensors[f"{name}.{part}"] = value
    save_file(tensors, tmp_path / "q" / "model.safetensors")
    with pytest.raises(CorruptError, match=message):
        export(tmp_path / "q", "quantized-checkpoint")
