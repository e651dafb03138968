"""`fuse.lora`: transformers with the folded weights gives what the base gives with the adapters beside it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ingot.artifacts.errors import InputError, RecipeError, StageError
from ingot.stages import base
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STAGE = "fuse.lora"
IDS = torch.arange(4, 52).reshape(2, 24) * 7 % 320
RANK, ALPHA = 3, 6
Tensors = dict[str, torch.Tensor]


def network(directory: Path) -> Any:
    import transformers

    kind = json.loads((directory / "config.json").read_text())["architectures"][0]
    return getattr(transformers, kind).from_pretrained(directory, dtype=torch.float32).eval()


def output(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found = model(IDS)
    result: torch.Tensor = found.logits if "logits" in found else found.last_hidden_state
    return result


def pair(
    out_features: int, in_features: int, seed: int, rank: int = RANK
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, in_features, generator=generator) * 0.3
    return down, torch.randn(out_features, rank, generator=generator) * 0.3


def pairs_of(
    directory: Path, ends: tuple[str, ...], seed: int = 0
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A pair for every linear map of a network whose name ends so, by the sizes that its module has."""
    found = {}
    for number, (name, module) in enumerate(network(directory).named_modules()):
        if name.endswith(ends):
            weight = module.weight
            out, into = weight.shape[::-1] if "Conv1D" in type(module).__name__ else weight.shape
            found[name] = pair(out, into, 100 * seed + number)
    return found


def stored(pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Tensors:
    found = {}
    for name, (down, up) in pairs.items():
        found |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    return found


def beside(model: Any, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], scale: float) -> None:
    """Adds scale · B A x to what each module gives, as LoRA is trained (arXiv:2106.09685, section 4.1)."""

    def hook(down: torch.Tensor, up: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda _module, args, result: result + scale * (args[0] @ down.T @ up.T)

    for name, (down, up) in pairs.items():
        model.get_submodule(name).register_forward_hook(hook(down, up))


@pytest.fixture
def fold(run_stage: Any, tiny_checkpoint: Any) -> Any:
    """``(model, *(adapter directory, weight), **params) -> Artifact``; model: a family or a directory."""

    def run(
        model: Any, *adapters: tuple[Path, float], notes: list[str] | None = None, **params: object
    ) -> Any:
        directory = tiny_checkpoint(model) if isinstance(model, str) else model
        loaded = {
            f"adapter{number}": run_stage("load.adapter", {}, adapter=str(path))
            for number, (path, _) in enumerate(adapters, 1)
        }
        listed = [{"adapter": name, "weight": each[1]} for name, each in zip(loaded, adapters, strict=True)]
        return run_stage(STAGE, {"model": directory, **loaded}, notes=notes, adapters=listed, **params)

    return run


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        ("llama", ("q_proj", "v_proj", "down_proj")), ("qwen2", ("k_proj", "gate_proj")),
        ("gpt2", ("c_attn", "c_proj", "c_fc")), ("gpt_neox", ("query_key_value", "dense")),
        ("gemma2", ("o_proj", "up_proj")), ("phi3", ("qkv_proj", "gate_up_proj")),
        ("opt", ("fc1", "out_proj")), ("bert", ("query", "output.dense")),
        ("t5", ("SelfAttention.q", "EncDecAttention.v")), ("cohere", ("q_proj", "down_proj")),
    ],
)  # fmt: skip
def test_the_network_computes_what_it_did_with_the_adapter_beside_it(
    family: str, ends: tuple[str, ...], fold: Any, make_adapter: Any, tiny_checkpoint: Any
) -> None:
    directory = tiny_checkpoint(family)
    pairs = pairs_of(directory, ends)
    config = {"r": RANK, "lora_alpha": ALPHA, "fan_in_fan_out": family == "gpt2"}
    made = fold(family, (make_adapter(stored(pairs), **config, target_modules=list(ends)), 1.0))
    model = network(directory)
    ids = {"decoder_input_ids": IDS} if family == "t5" else {}
    with torch.inference_mode():
        plain = model(IDS, **ids)[0]
        beside(model, pairs, ALPHA / RANK)
        expected, found = model(IDS, **ids)[0], network(made.path)(IDS, **ids)[0]
    assert (expected - plain).abs().max() > 0.3
    assert (found - expected).abs().max() < 5e-5 * expected.abs().max()
    before, after = load_file(directory / "model.safetensors"), load_file(made.path / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {f"{name}.weight" for name in pairs}
    assert {name for name in before if not torch.equal(before[name], after[name])} == changed
    assert made.facts["folded_tensors"] == len(pairs)


def test_several_adapters_add_up_as_changes_with_their_weights(
    fold: Any, make_adapter: Any, tiny_checkpoint: Any
) -> None:
    directory = tiny_checkpoint("llama")
    first, second = (pairs_of(directory, ("q_proj", "up_proj"), seed) for seed in (1, 2))
    adapters = [
        (make_adapter(stored(first), "first", r=RANK, lora_alpha=ALPHA), 0.6),
        (make_adapter(stored(second), "second", r=RANK, lora_alpha=ALPHA, use_rslora=True), -0.4),
    ]
    made = load_file(fold("llama", *adapters).path / "model.safetensors")
    weights = load_file(directory / "model.safetensors")
    for name in first:
        down, up = (value.double() for value in first[name])
        other_down, other_up = (value.double() for value in second[name])
        delta = 0.6 * 2 * (up @ down) - 0.4 * (ALPHA / math.sqrt(RANK)) * (other_up @ other_down)
        expected = (weights[f"{name}.weight"].double() + delta).float()
        assert torch.allclose(made[f"{name}.weight"], expected, rtol=0, atol=2e-7)


def test_dora_is_the_direction_with_learned_norms(fold: Any, make_adapter: Any, tiny_checkpoint: Any) -> None:
    # arXiv:2402.09353, equation 5, with the norm over each output's weights.
    for family, name in (
        ("llama", "model.layers.1.self_attn.v_proj"),
        ("gpt2", "transformer.h.0.attn.c_attn"),
    ):
        directory = tiny_checkpoint(family)
        weight = load_file(directory / "model.safetensors")[f"{name}.weight"].double()
        weight = weight.T if family == "gpt2" else weight
        down, up = pair(*weight.shape, seed=5)
        magnitude = torch.rand(len(weight), generator=torch.Generator().manual_seed(6)) * 3 + 0.5
        tensors = {**stored({name: (down, up)}), f"{name}.lora_magnitude_vector": magnitude}
        adapter = make_adapter(tensors, family, r=RANK, lora_alpha=ALPHA, use_dora=True)
        made = load_file(fold(family, (adapter, 1.0)).path / "model.safetensors")[f"{name}.weight"].double()
        moved = weight + ALPHA / RANK * up.double() @ down.double()
        expected = magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True)
        assert torch.allclose(made.T if family == "gpt2" else made, expected, rtol=0, atol=1e-6)


def test_a_rank_cuts_the_sum_to_its_largest_singular_values(
    fold: Any, make_adapter: Any, tiny_checkpoint: Any
) -> None:
    directory, name = tiny_checkpoint("llama"), "model.layers.0.mlp.gate_proj"
    adapters = []
    total = torch.zeros(160, 64, dtype=torch.float64)
    for seed in (7, 8):
        down, up = pair(160, 64, seed)
        total += ALPHA / RANK * up.double() @ down.double()
        adapters.append((make_adapter(stored({name: (down, up)}), str(seed), r=RANK, lora_alpha=ALPHA), 1.0))
    made = load_file(fold("llama", *adapters, rank=2).path / "model.safetensors")[f"{name}.weight"]
    delta = made.double() - load_file(directory / "model.safetensors")[f"{name}.weight"].double()
    first, values, second = np.linalg.svd(total.numpy())
    expected = (first[:, :2] * values[:2]) @ second[:2]
    assert np.abs(delta.numpy() - expected).max() < 1e-6
    assert np.linalg.matrix_rank(delta.numpy(), tol=1e-4) == 2


def test_embedding_and_head_that_were_one_are_two_where_an_adapter_changes_one(
    fold: Any, make_adapter: Any, tiny_checkpoint: Any, run_stage: Any
) -> None:
    directory = tiny_checkpoint("llama-tied")
    table = load_file(directory / "model.safetensors")["model.embed_tokens.weight"]
    down, up = pair(64, 320, 9)
    tensors = {
        "model.embed_tokens.lora_embedding_A": down,
        "model.embed_tokens.lora_embedding_B": up,
        # PEFT stores the base's own table beside the pair.
        "model.embed_tokens.base_layer.weight": table,
    }
    notes: list[str] = []
    made = fold("llama-tied", (make_adapter(tensors, r=RANK, lora_alpha=ALPHA), 1.0), notes=notes)
    model = network(directory)
    model.get_input_embeddings().register_forward_hook(
        lambda _module, args, result: result + ALPHA / RANK * (down.T[args[0]] @ up.T)
    )
    expected, found = output(model), output(network(made.path))
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    weights = load_file(made.path / "model.safetensors")
    assert torch.equal(weights["lm_head.weight"], table)
    assert not torch.equal(weights["model.embed_tokens.weight"], table)
    assert json.loads((made.path / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("tied" in note for note in notes)
    assert made.facts["tied"] is False
    loaded = run_stage("load", {}, model=str(made.path))
    assert loaded.facts["parameters"] == made.facts["parameters"] == sum(w.numel() for w in weights.values())


def test_an_adapter_of_a_tied_head_leaves_the_embedding(
    fold: Any, make_adapter: Any, tiny_checkpoint: Any
) -> None:
    directory = tiny_checkpoint("gpt2")
    pairs = {"lm_head": pair(320, 64, 10)}
    made = fold("gpt2", (make_adapter(stored(pairs), r=RANK, lora_alpha=ALPHA), 1.0))
    model = network(directory)
    beside(model, pairs, ALPHA / RANK)
    expected = output(model)
    assert (output(network(made.path)) - expected).abs().max() < 2e-5 * expected.abs().max()
    table = load_file(directory / "model.safetensors")["transformer.wte.weight"]
    assert torch.equal(load_file(made.path / "model.safetensors")["transformer.wte.weight"], table)


def test_modules_and_biases_that_are_stored_whole_replace_the_bases(
    fold: Any, make_adapter: Any, tiny_checkpoint: Any
) -> None:
    name = "transformer.h.1.mlp.c_fc"
    weights = load_file(tiny_checkpoint("gpt2") / "model.safetensors")
    norm, bias, added = torch.randn(64), torch.randn(256), torch.randn(256)
    tensors = {
        **stored({name: pair(256, 64, 11)}),
        f"{name}.lora_B.bias": added,
        f"{name}.base_layer.bias": bias,
        "transformer.ln_f.weight": norm,
        "transformer.ln_f.bias": weights["transformer.ln_f.bias"],
    }
    config = {
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_bias": True,
        "bias": "lora_only",
        "modules_to_save": ["ln_f"],
    }
    adapter = make_adapter(tensors, **config)
    made = load_file(fold("gpt2", (adapter, 1.0)).path / "model.safetensors")
    assert torch.equal(made["transformer.ln_f.weight"], norm)
    assert torch.allclose(made[f"{name}.bias"], bias + ALPHA / RANK * added, rtol=1e-6)
    half = load_file(fold("gpt2", (adapter, 0.5)).path / "model.safetensors")
    assert torch.allclose(half["transformer.ln_f.weight"], (norm + weights["transformer.ln_f.weight"]) / 2)
    expected = (weights[f"{name}.bias"] + bias + ALPHA / RANK * added) / 2
    assert torch.allclose(half[f"{name}.bias"], expected, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_without_the_models_prefix_is_matched(
    fold: Any, make_adapter: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_checkpoint("gpt2"), tmp_path / "bare")
    weights = load_file(directory / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in weights.items()}
    save_file(bare, directory / "model.safetensors", metadata={"format": "pt"})
    pairs = {"transformer.h.0.mlp.c_proj": pair(64, 256, 12)}
    adapter = make_adapter(stored(pairs), r=RANK, lora_alpha=ALPHA)
    made = load_file(fold(directory, (adapter, 1.0)).path / "model.safetensors")
    expected = load_file(fold("gpt2", (adapter, 1.0)).path / "model.safetensors")
    assert torch.equal(made["h.0.mlp.c_proj.weight"], expected["transformer.h.0.mlp.c_proj.weight"])


def test_the_dtype_is_the_bases_or_what_is_asked_for_and_what_rounding_took_is_said(
    fold: Any, make_adapter: Any, tiny_checkpoint: Any
) -> None:
    directory = tiny_checkpoint("llama", dtype="bfloat16")
    name = "model.layers.0.self_attn.q_proj"
    down, up = pair(64, 64, 13)
    adapter = make_adapter(stored({name: (down, up)}), r=RANK, lora_alpha=ALPHA)
    weights = load_file(directory / "model.safetensors")
    exact = (weights[f"{name}.weight"].double() + ALPHA / RANK * up.double() @ down.double()).float()
    for dtype, expected in (("base", torch.bfloat16), ("float32", torch.float32), ("float16", torch.float16)):
        made = fold(directory, (adapter, 1.0), dtype=dtype)
        found = load_file(made.path / "model.safetensors")
        assert torch.equal(found[f"{name}.weight"], exact.to(expected))
        assert torch.equal(found["model.norm.weight"], weights["model.norm.weight"].to(expected))
        assert made.facts["dtype"] == str(expected).removeprefix("torch.")
        assert json.loads((made.path / "config.json").read_text())["dtype"] == made.facts["dtype"]
    small = make_adapter(stored({name: (down * 1e-3, up)}), "small", r=RANK, target_modules=[name])
    notes: list[str] = []
    fold(directory, (small, 1.0), notes=notes)
    assert any("rounding the weights moved them by" in note for note in notes)
    fold(directory, (small, 1.0), notes=(quiet := []), dtype="float32")
    assert quiet == []


def test_threads_change_no_byte(fold: Any, run_stage: Any, make_adapter: Any, tiny_checkpoint: Any) -> None:
    pairs = pairs_of(tiny_checkpoint("llama"), ("q_proj",))
    adapter = run_stage("load.adapter", {}, adapter=str(make_adapter(stored(pairs), r=RANK)))
    inputs = {"model": tiny_checkpoint("llama"), "adapter1": adapter}
    one, many = (run_stage(STAGE, inputs, threads=n, adapters=["adapter1"]).digest for n in (1, 3))
    assert one == many


def test_sharded_checkpoints_and_adapters_of_half_precision_pass(
    fold: Any, make_adapter: Any, tiny_checkpoint: Any
) -> None:
    name = "model.layers.1.mlp.down_proj"
    half = {key: value.bfloat16() for key, value in stored({name: pair(64, 160, 14)}).items()}
    adapter = make_adapter(half, r=RANK, lora_alpha=ALPHA)
    shards = tiny_checkpoint("llama", max_shard_size="100KB")
    assert not (shards / "model.safetensors").exists()
    made, whole = (
        load_file(fold(each, (adapter, 1.0)).path / "model.safetensors") for each in (shards, "llama")
    )
    assert torch.equal(made[f"{name}.weight"], whole[f"{name}.weight"])


Q0 = "model.layers.0.self_attn.q_proj"
PAIR = pair(64, 64, 0)
TABLE = pair(64, 320, 0)


@pytest.mark.parametrize(
    ("family", "tensors", "config", "reason"),
    [
        ("llama", stored({Q0.replace("0", "9"): PAIR}), {}, r"the base has no model\.layers\.9"),
        ("llama", stored({Q0: pair(64, 32, 0)}), {}, r"maps 32 features to 64, and .* is \[64, 64\]"),
        ("llama", stored({Q0: PAIR}), {"layers_to_transform": [1]}, "^layers_to_transform: .* layer 0"),
        (
            "llama", {**stored({Q0: PAIR}), f"{Q0}.lora_B.bias": torch.ones(64)}, {"lora_bias": True},
            f"lora_bias: {Q0} of the base has no bias",
        ),
        (
            "llama", {**stored({Q0: PAIR}), "score.weight": torch.ones(2, 64)},
            {"modules_to_save": ["score"]}, r"the base has no score\.weight",
        ),
        (
            "llama", {**stored({Q0: PAIR}), "model.embed_tokens.weight": torch.ones(322, 64)}, {},
            r"embed_tokens\.weight is \[322, 64\], and \[320, 64\] in the base",
        ),
        (
            "t5", {"shared.lora_embedding_A": TABLE[0], "shared.lora_embedding_B": TABLE[1]}, {},
            "several tables at once",
        ),
        ("bloom", stored({"transformer.word_embeddings": pair(320, 64, 0)}), {}, "several tables at once"),
        (
            "llama-tied", stored({"lm_head": pair(320, 64, 0)}), {"ensure_weight_tying": True},
            "^ensure_weight_tying: adapter1",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_base_is_refused_with_the_reason(
    family: str, tensors: Tensors, config: Any, reason: str, fold: Any, make_adapter: Any
) -> None:
    with pytest.raises(InputError, match=reason):
        fold(family, (make_adapter(tensors, r=RANK, **config), 1.0))


def test_a_rank_of_a_dora_is_refused(fold: Any, make_adapter: Any) -> None:
    tensors = {**stored({Q0: PAIR}), f"{Q0}.lora_magnitude_vector": torch.ones(64)}
    with pytest.raises(InputError, match="is a DoRA"):
        fold("llama", (make_adapter(tensors, r=RANK, use_dora=True), 1.0), rank=2)


def test_values_that_the_dtype_cannot_hold_end_the_stage(fold: Any, make_adapter: Any) -> None:
    down, up = PAIR
    with pytest.raises(StageError, match=r"q_proj\.weight with adapter1 has values that F16 cannot hold"):
        fold("llama", (make_adapter(stored({Q0: (down * 1e6, up)}), r=RANK), 1.0), dtype="float16")


def by_hand(directory: Path, name: str) -> Any:
    """(codes − zeros) · scales of a weight [out, in], float32, from the tensors that a checkpoint stores."""
    tensors = load_file(directory / "model.safetensors")
    codes, zeros, scales = (
        tensors[f"{name}.{part}"].float().numpy() for part in ("codes", "zeros", "scales")
    )
    width = codes.shape[1] // scales.shape[1]
    return (codes - np.repeat(zeros, width, axis=1)) * np.repeat(scales, width, axis=1)


@pytest.fixture
def quantized(run_stage: Any, tiny_checkpoint: Any) -> Any:
    """``(family, layout) -> Artifact``: int4 in groups, made here or, with a layout, as others pack it."""

    def make(family: str, layout: str | None = None) -> Any:
        settings = {"bits": 4, "group_size": 32, "embedding_bits": 16, "lm_head_bits": 16}
        made = run_stage("quantize.rtn", {"model": tiny_checkpoint(family, "bfloat16")}, **settings)
        if layout is None:
            return made
        written = run_stage("export.checkpoint", {"model": made}, layout=layout)
        return run_stage("load.quantized", {}, model=str(written.path))

    return make


@pytest.fixture
def fold_codes(run_stage: Any, make_adapter: Any) -> Any:
    """``(base, pairs, **params) -> Artifact``: pairs folded into a quantized base that may be dequantized."""

    def run(base: Any, pairs: Any, notes: list[str] | None = None, **params: object) -> Any:
        adapter = run_stage(
            "load.adapter", {}, adapter=str(make_adapter(stored(pairs), r=RANK, lora_alpha=ALPHA))
        )
        inputs = {"model": base, "adapter1": adapter}
        return run_stage(STAGE, inputs, notes=notes, adapters=["adapter1"], dequantize=True, **params)

    return run


@pytest.mark.parametrize("layout", [None, "gptq", "awq", "compressed-tensors"])
def test_a_quantized_base_is_dequantized_where_that_is_asked_for(
    layout: str | None, quantized: Any, fold_codes: Any, tiny_checkpoint: Any
) -> None:
    base = quantized("llama", layout)
    pairs = pairs_of(tiny_checkpoint("llama"), ("q_proj", "down_proj"))
    made = fold_codes(base, pairs)
    before, after = load_file(base.path / "model.safetensors"), load_file(made.path / "model.safetensors")
    assert after.keys() == load_file(tiny_checkpoint("llama") / "model.safetensors").keys()
    for name, weight in after.items():
        if name in before:  # was not quantized
            assert torch.equal(weight, before[name])
            continue
        expected = by_hand(base.path, name)
        if (module := name.removesuffix(".weight")) in pairs:
            down, up = (each.double().numpy() for each in pairs[module])
            expected = expected + ALPHA / RANK * up @ down
        assert weight.dtype == torch.float32
        assert np.array_equal(weight.numpy(), expected.astype(np.float32))
    assert made.kind == "checkpoint"
    assert made.facts["folded_tensors"] == len(pairs)
    assert made.facts["dequantized"]["weights_by_width"]["int4"]["tensors"] == 14
    assert "bits_per_weight" not in made.facts
    assert network(made.path).config.dtype == torch.float32


def test_codes_of_weights_that_are_stored_in_by_out_are_turned(
    quantized: Any, fold_codes: Any, tiny_checkpoint: Any
) -> None:
    base = quantized("gpt2")
    pairs = pairs_of(tiny_checkpoint("gpt2"), ("c_attn", "c_fc"))
    after = load_file(fold_codes(base, pairs).path / "model.safetensors")
    for module, (down, up) in pairs.items():
        held = next(name for name in after if name.endswith(f"{module}.weight"))
        change = ALPHA / RANK * up.double().numpy() @ down.double().numpy()
        expected = (by_hand(base.path, held) + change).T.astype(np.float32)
        assert np.array_equal(after[held].numpy(), expected)


def test_a_base_that_was_rescaled_before_rounding_is_remarked(
    run_stage: Any, fold_codes: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    record = run_stage("quantize.rtn", {"model": tiny_checkpoint("llama")}, bits=4)
    own = tmp_path / "rescaled"
    shutil.copytree(record.path, own)
    for path in (own, *own.iterdir()):
        path.chmod(0o755)
    value = json.loads((own / "quantization.json").read_text())
    value |= {"method": "awq", "transforms": [{"kind": "scale"}]}
    (own / "quantization.json").write_text(json.dumps(value))
    notes: list[str] = []
    fold_codes(dataclasses.replace(record, path=own), {Q0: PAIR}, notes)
    assert any("awq rescaled the network" in note for note in notes)


def test_a_quantized_base_is_refused_unless_it_may_be_dequantized(
    run_stage: Any, make_adapter: Any, quantized: Any
) -> None:
    adapter = run_stage("load.adapter", {}, adapter=str(make_adapter(stored({Q0: PAIR}), r=RANK)))
    with pytest.raises(InputError, match="the base is quantized") as caught:
        run_stage(STAGE, {"model": quantized("llama"), "adapter1": adapter}, adapters=["adapter1"])
    assert "fuse.dequantize: true" in (caught.value.fix or "")


def test_there_is_nothing_to_dequantize_in_a_plain_base(fold: Any, make_adapter: Any) -> None:
    with pytest.raises(InputError, match="the base is not quantized"):
        fold("llama", (make_adapter(stored({Q0: PAIR}), r=RANK), 1.0), dequantize=True)


def test_an_adapter_that_was_saved_in_part_is_remarked(fold: Any, make_adapter: Any) -> None:
    notes: list[str] = []
    fold("llama", (make_adapter(stored({Q0: PAIR}), r=RANK), 1.0), notes=notes)
    (note,) = notes
    assert "names model.layers.1.self_attn.q_proj in target_modules and holds no pair for it" in note


def test_parameters_name_models_and_come_out_naming_inputs(tmp_path: Path) -> None:
    expand = base.get(STAGE).expand
    assert expand is not None
    written = {"adapters": ["./style", {"adapter": "org/name@main", "weight": 2}], "dtype": "float32"}
    found = expand(written, tmp_path, "load")
    assert found.values == {
        "adapters": [{"adapter": "adapter1", "weight": 1.0}, {"adapter": "adapter2", "weight": 2.0}],
        "dtype": "float32",
    }
    assert {name: (each.name, each.is_adapter, each.origin) for name, each in found.sources.items()} == {
        "adapter1": ("./style", True, "adapters[0].adapter"),
        "adapter2": ("org/name@main", True, "adapters[1].adapter"),
    }
    assert all(base.get(STAGE).kinds_of(name) == ("adapter",) for name in found.sources)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "adapters is not a list"), ([], "adapters is not a list"), ("./a", "adapters is not a list"),
        ([3], r"adapters\[0\]: 3 is neither"), ([{"weight": 1}], r"adapters\[0\]\.adapter is missing"),
        (["a", {"adapter": "b", "weigth": 1}], r"adapters\[1\]\.weigth is not a known name"),
        ([{"adapter": "b", "weight": "1"}], r"adapters\[0\]\.weight: '1' is not a number"),
        ([{"adapter": "b", "weight": float("inf")}], "is not a number"),
    ],
)  # fmt: skip
def test_a_list_that_is_none_is_refused(value: object, reason: str, tmp_path: Path) -> None:
    expand = base.get(STAGE).expand
    assert expand is not None
    with pytest.raises(RecipeError, match=reason):
        expand({"adapters": value}, tmp_path, "load")
