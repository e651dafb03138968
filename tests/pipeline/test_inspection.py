"""`ingot inspect`: what it says of real checkpoints, and how fast it is for one of 70 billion parameters."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from ingot.artifacts.errors import RecipeError
from ingot.pipeline.inspection import inspect
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM

LARGE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192,
    "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "torch_dtype": "bfloat16",
}  # fmt: skip
SHARDS = 30


def large_tensors() -> dict[str, tuple[int, ...]]:
    hidden, inner, kv = LARGE["hidden_size"], LARGE["intermediate_size"], 1024
    tensors: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (LARGE["vocab_size"], hidden),
        "lm_head.weight": (LARGE["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(LARGE["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        tensors |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}self_attn.k_proj.weight": (kv, hidden),
            f"{prefix}self_attn.v_proj.weight": (kv, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}mlp.up_proj.weight": (inner, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, inner),
        }
    return tensors


@pytest.fixture
def large_checkpoint(tmp_path, tiny_checkpoint):
    """Llama-3-70B's shapes in 30 sparse shards: headers are real, the data are holes."""
    names = list(large_tensors().items())
    weight_map = {}
    for number in range(SHARDS):
        header, position = {}, 0
        for name, shape in names[number::SHARDS]:
            size = math.prod(shape) * 2
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + size]}
            position += size
            weight_map[name] = f"model-{number:05d}.safetensors"
        text = json.dumps(header).encode()
        path = tmp_path / f"model-{number:05d}.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        with path.open("r+b") as stream:
            stream.truncate(8 + len(text) + position)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps(LARGE))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_checkpoint("llama") / name).read_bytes())
    return tmp_path


def test_a_70b_checkpoint_is_inspected_within_a_second_and_without_heavy_imports(large_checkpoint):
    code = (
        "import sys, time, json\n"
        "from ingot.pipeline.cli import main\n"
        "begin = time.process_time()\n"
        "try: main(['inspect', sys.argv[1], '--json'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'onnx', 'onnxruntime'} & sys.modules.keys()\n"
        "cost = {'seconds': time.process_time() - begin, 'heavy': sorted(heavy)}\n"
        "print(json.dumps(cost), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(large_checkpoint)], capture_output=True, text=True, check=True
    )
    found, cost = json.loads(done.stdout), json.loads(done.stderr)
    assert found["facts"]["parameters"] == 70_553_706_496  # as Meta's model card gives it, rounded to 70.6B
    assert found["kv_bytes_per_token"] == 2 * 80 * 8 * 128 * 4
    sizes = {need["target"]: need["disk_bytes"] for need in found["targets"]}
    assert sizes["cpu-fp32"] == 4 * 70_553_706_496
    assert 0.15 < sizes["cpu-int4"] / sizes["cpu-fp32"] < 0.17
    # 4 bits of 70 thousand million weights are 35 GB: more than the memory of an L4, less than an A100's.
    faults = {need["target"]: need["fault"] for need in found["targets"]}
    assert "breaks the rule memory.device" in faults["nvidia-sm89"]
    assert not faults["nvidia-sm80"]
    assert cost["heavy"] == []
    assert cost["seconds"] < 1.0


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_parameters_and_cache_are_what_transformers_has(tiny_checkpoint, family):
    directory = tiny_checkpoint(family)
    model = AutoModelForCausalLM.from_pretrained(directory)
    config = AutoConfig.from_pretrained(directory)
    found = inspect(str(directory))
    assert found.facts is not None
    assert found.facts.parameters == model.num_parameters()
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert found.kv_bytes_per_token == 2 * config.num_hidden_layers * heads * size * 4


def test_tensors_of_all_layers_are_one_line_and_nothing_is_left_out(tiny_checkpoint):
    directory = tiny_checkpoint("llama")
    found = inspect(str(directory))
    stored = load_file(directory / "model.safetensors")
    assert sum(part.count for part in found.parts) == len(stored)
    assert sum(part.size_bytes for part in found.parts) == sum(array.nbytes for array in stored.values())
    queries = next(part for part in found.parts if "q_proj" in part.name)
    assert (queries.name, queries.count) == ("model.layers.*.self_attn.q_proj.weight", 2)


@pytest.mark.usefixtures("one_process")
def test_what_a_target_would_deliver_is_what_it_delivers(tiny_checkpoint, store, tmp_path):
    from ingot.pipeline.recipe import recipe_from_options
    from ingot.pipeline.run import RunOptions, run

    text = tmp_path / "text.txt"
    text.write_text("The river ran past the mill and the road ran with the river to the town. " * 60)
    directory = str(tiny_checkpoint("llama-tied"))
    recipe = recipe_from_options(directory, ["cpu-int4"], data={"evaluation": str(text)})
    done = run(recipe, store, RunOptions(out=tmp_path / "out", allow_failing=True))
    delivered = next(file for file in done.report.targets["cpu-int4"].files if file.path == "model.onnx")
    (need,) = inspect(directory, ("cpu-int4",)).needs
    # The graph itself, some tens of kilobytes whatever the model's size, is what the estimate leaves out.
    assert need.disk_bytes <= delivered.size <= need.disk_bytes + 60_000


def test_a_checkpoint_that_intake_refuses_is_still_shown_with_the_objection(own_checkpoint_with_auto_map):
    found = inspect(str(own_checkpoint_with_auto_map))
    assert found.facts is None
    assert found.parts
    assert "auto_map" in str(found.objection)


@pytest.fixture
def own_checkpoint_with_auto_map(tiny_checkpoint, tmp_path):
    for path in tiny_checkpoint("llama").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    return tmp_path


def test_an_unknown_target_is_an_error_with_the_nearest_name(tiny_checkpoint):
    with pytest.raises(RecipeError, match="cpu-int8"):
        inspect(str(tiny_checkpoint("llama")), ("cpu-int9",))


def test_an_encoder_has_no_cache(tiny_checkpoint):
    found = inspect(str(tiny_checkpoint("bert")))
    assert {need.target for need in found.needs} >= {"cpu-int8", "cpu-int4", "cpu-fp32"}
    assert found.kv_bytes_per_token == 0


def test_what_stays_in_floating_point_is_as_wide_as_the_exporter_writes_it(tiny_checkpoint):
    found = inspect(str(tiny_checkpoint("llama")), ("nvidia", "cpu-fp32"))
    half, whole = found.needs
    assert half.widths == {"float16": found.facts.parameters}
    assert 2 * half.disk_bytes == whole.disk_bytes
