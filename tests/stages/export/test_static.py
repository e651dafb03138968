"""Static int8 activations: both forms of the graph compute what rounding each input to its grid gives."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from ingot.artifacts.errors import InputError
from ingot.stages.model.quantized import QuantizedCheckpoint

from .conftest import quantize
from .oracle import OnnxModel
from .oracle_pairs import OnnxPair
from .rounded import InputsOf, on_grid
from .test_quantized import describe, with_restored

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = ("llama", "qwen2", "gpt2", "opt", "phi3", "gpt_neox", "mixtral", "qwen2_moe", "bert", "t5", "bart")
RNG = np.random.default_rng(0)
IDS = torch.tensor(RNG.integers(4, 320, (2, 12)))
TARGETS = torch.tensor(RNG.integers(4, 320, (2, 9)))


def opened(directory: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(directory)
    return getattr(transformers, config.architectures[0]).from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )


def outputs(model: Any, change: Any) -> Any:
    given = {"decoder_input_ids": TARGETS} if model.config.is_encoder_decoder else {}
    with torch.no_grad(), InputsOf(model, change):
        found = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), **given)
    return (found.logits if "logits" in found else found.last_hidden_state).numpy()


def keys(model: Any, name: str) -> list[str]:
    """What :class:`InputsOf` calls the parameter that a tensor of the checkpoint becomes."""
    own = dict(model.named_parameters())
    if (expert := re.fullmatch(r"(.*experts)\.(\d+)\.(\w+)\.weight", name)) is not None:
        part = "down_proj" if expert[3] in ("w2", "down_proj") else "gate_up_proj"
        root = expert[1].replace("block_sparse_moe", "mlp")
        return [f"{root}.{part}[{expert[2]}]"]
    name = name.replace("embed_out", "lm_head")
    return [f"{full}[0]" for full in own if full == name or full.endswith(f".{name}")]


def make(family: str, directory: Path, target: Path, *, sym: bool) -> tuple[Any, dict[str, Any]]:
    """A checkpoint quantized by hand with grids that clip half of what calibration saw; and the grids."""
    model, seen = opened(directory), {}

    def record(key: str, value: Any) -> Any:
        low, high = seen.get(key, (0.0, 0.0))
        if value.numel():
            seen[key] = (min(low, float(value.min())), max(high, float(value.max())))
        return value

    outputs(model, record)
    forms, grids = {}, {}
    architecture = describe(directory)
    for linear in architecture.linears:
        (key,) = keys(model, linear.name)
        low, high = (0.5 * end for end in seen.get(key, (-1.0, 1.0)))
        scale = max(-low, high) / 127 if sym else (high - low) / 255
        grid = {"scale": float(np.float32(scale)), "zero": 128 if sym else round(-low / scale)}
        grids[key] = grid
        forms[linear.name] = {
            "bits": 8, "activation": "static", "input": grid, "stored_in_out": linear.stored_in_out
        }  # fmt: skip
    return quantize(directory, target, forms), grids


def run_graph(family: str, directory: Path) -> Any:
    if family in ("t5", "bart"):
        pair, mask = OnnxPair(directory), np.ones(IDS.shape, np.int64)
        return pair.step(TARGETS.numpy(), pair.encode(IDS.numpy(), mask), mask, None)[0]
    model = OnnxModel(directory)
    feeds = {"input_ids": IDS.numpy(), "attention_mask": np.ones(IDS.shape, np.int64)}
    feeds["position_ids"] = np.tile(np.arange(IDS.shape[1]), (len(IDS), 1))
    feeds["token_type_ids"] = np.zeros(IDS.shape, np.int64)
    wanted = {value.name for value in model.session.get_inputs()}
    return model({name: value for name, value in feeds.items() if name in wanted})[0]


def distance(first: Any, second: Any) -> float:
    return float(np.linalg.norm(first - second) / np.linalg.norm(second))


@pytest.mark.parametrize("quant_format", ["qoperator", "qdq"])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_static_graph_computes_what_rounding_to_the_grids_gives(
    family: str, sym: bool, quant_format: str, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    directory = tiny_checkpoint(family)
    restored, grids = make(family, directory, tmp_path / "q", sym=sym)
    model = opened(with_restored(directory, tmp_path / "restored", restored))
    plain = outputs(model, lambda _key, value: value)
    simulated = outputs(model, lambda key, value: on_grid(value, grids[key]) if key in grids else value)
    exported = export(tmp_path / "q", "quantized-checkpoint", quant_format=quant_format)
    found = run_graph(family, exported.directory)
    # A sum that differs in its last bit may round to the next code, here and there; clipping is far more.
    assert distance(plain, simulated) >= 0.1
    assert distance(found, simulated) <= 0.08 * distance(plain, simulated)


@pytest.mark.parametrize("family", ["llama", "mixtral", "t5"])
def test_the_qdq_form_has_onnx_operators_alone(
    family: str, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    make(family, tiny_checkpoint(family), tmp_path / "q", sym=True)
    exported = export(tmp_path / "q", "quantized-checkpoint", quant_format="qdq")
    assert exported.result.facts["domains"] == []
    graph = onnx.load(exported.directory / "model.onnx").graph
    assert {node.domain for node in graph.node} == {""}
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert dequantized
    for node in dequantized:
        # Int8 about 0 is what TensorRT takes.
        zeros = onnx.numpy_helper.to_array(arrays[node.input[2]])
        assert (zeros.dtype, np.abs(zeros).max()) == (np.int8, 0)


def test_maps_that_share_an_input_share_its_codes(tiny_checkpoint: Any, export: Any, tmp_path: Path) -> None:
    make("llama", tiny_checkpoint("llama"), tmp_path / "q", sym=False)
    exported = export(tmp_path / "q", "quantized-checkpoint")
    graph = onnx.load(exported.directory / "model.onnx").graph
    count = Counter(node.op_type for node in graph.node)
    # Of 7 maps in each of 2 layers, q, k and v read one input, gate and up another; and the head.
    assert (count["QuantizeLinear"], count["MatMulIntegerToFloat"]) == (2 * 4 + 1, 2 * 7 + 1)


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [0, 32])
def test_the_codes_in_a_qdq_graph_are_the_codes_of_the_checkpoint_about_zero(
    bits: int, group: int, sym: bool, tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    form = {"bits": bits, "group_size": group, "sym": sym}
    names = ("model.layers.0.mlp.down_proj.weight", "model.embed_tokens.weight")
    quantize(tiny_checkpoint("llama"), tmp_path / "q", dict.fromkeys(names, form))
    exported = export(tmp_path / "q", "quantized-checkpoint", quant_format="qdq")
    graph = onnx.load(exported.directory / "model.onnx").graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    source = QuantizedCheckpoint.open(tmp_path / "q")
    for name in names:
        weight = source.weight(name)
        is_turned = name != names[1]
        for part, values in (("codes", weight.codes), ("zeros", weight.zeros)):
            expected = values.astype(int) - 2 ** (bits - 1)
            expected = expected.T if is_turned else expected
            expected = expected.reshape(-1) if part == "zeros" and not group else expected
            assert np.array_equal(arrays[f"{name}.{part}"].astype(int), expected)
        scales = weight.scales.T if is_turned else weight.scales
        assert np.array_equal(arrays[f"{name}.scales"], scales.reshape(-1) if not group else scales)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2"])
@pytest.mark.parametrize(
    ("bits", "group", "sym", "activation"),
    [(8, 0, True, "none"), (8, 32, False, "none"), (4, 32, True, "none"), (2, 16, False, "none"),
     (4, 0, True, "none"), (8, 0, True, "dynamic"), (8, 0, False, "dynamic")],
)  # fmt: skip
def test_other_qdq_graphs_compute_what_the_operators_of_onnxruntime_do(
    family: str,
    bits: int,
    group: int,
    sym: bool,
    activation: str,
    tiny_checkpoint: Any,
    export: Any,
    tmp_path: Path,
) -> None:
    directory = tiny_checkpoint(family)
    form = {"bits": bits, "group_size": group, "sym": sym}
    architecture = describe(directory)
    forms = {
        linear.name: {**form, "activation": activation, "stored_in_out": linear.stored_in_out}
        for linear in architecture.linears
    }
    forms[architecture.embedding] = {**form, "activation": activation if architecture.tied else "none"}
    quantize(directory, tmp_path / "q", forms)
    graphs = [
        export(tmp_path / "q", "quantized-checkpoint", accuracy_level=0, quant_format=quant_format)
        for quant_format in ("qoperator", "qdq")
    ]
    first, second = (run_graph(family, graph.directory) for graph in graphs)
    # A tied head has int8 blocks of activations in the one, and int8 rows in the other.
    is_tied_int8 = activation == "dynamic" and architecture.tied
    assert distance(first, second) <= (3e-2 if is_tied_int8 else 1e-3)
    assert graphs[1].result.facts["domains"] == []
    kept = {*graphs[1].result.facts["weights_by_width"]} - {"float32"}
    assert kept == {f"int{bits}"}


def test_a_tied_head_with_static_activations_needs_the_qdq_form(
    tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    form = {"bits": 8, "activation": "static", "input": {"scale": 0.05, "zero": 128}}
    quantize(tiny_checkpoint("llama-tied"), tmp_path / "q", {"model.embed_tokens.weight": form})
    with pytest.raises(InputError, match="a head that is the embedding"):
        export(tmp_path / "q", "quantized-checkpoint")
    exported = export(tmp_path / "q", "quantized-checkpoint", quant_format="qdq")
    assert np.isfinite(run_graph("llama-tied", exported.directory)).all()


def test_the_session_asks_for_exact_sums_and_the_blocks_accuracy(
    tiny_checkpoint: Any, export: Any, tmp_path: Path
) -> None:
    make("llama", tiny_checkpoint("llama"), tmp_path / "q", sym=True)
    for quant_format, expected in (
        ("qoperator", {"session.x64quantprecision": "1"}),
        ("qdq", {"session.x64quantprecision": "1", "session.qdq_matmulnbits_accuracy_level": "0"}),
    ):
        exported = export(tmp_path / "q", "quantized-checkpoint", accuracy_level=0, quant_format=quant_format)
        about = json.loads((exported.directory / "ingot.json").read_text())
        assert about["session_options"] == expected
