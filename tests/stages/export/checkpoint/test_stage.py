"""`export.checkpoint`: what is written is read back exactly, and refused where a layout does not hold it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import CorruptError, InputError
from ingot.artifacts.tensors import TensorSource
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint

if TYPE_CHECKING:
    from ingot.artifacts.manifest import Artifact

LAYOUTS = {
    "compressed-tensors": {"bits": 3, "group_size": 16, "sym": False},
    "gptq": {"bits": 4, "group_size": 32},
    "awq": {"bits": 4, "group_size": 32, "sym": False, "lm_head_bits": 16},
}


def quantized(run_stage: Any, directory: Any, **params: Any) -> Artifact:
    return run_stage("quantize.rtn", {"model": directory}, embedding_bits=16, **params)


def assert_same_weights(found: QuantizedCheckpoint, expected: QuantizedCheckpoint) -> None:
    assert set(found.quantized) == set(expected.quantized)
    for name in expected.quantized:
        ours, theirs = found.weight(name), expected.weight(name)
        assert np.array_equal(ours.codes, theirs.codes)
        assert np.array_equal(ours.zeros, theirs.zeros)
        assert np.array_equal(ours.scales, theirs.scales)
        assert ours.spec.format == theirs.spec.format
    floats = expected.float_names()
    assert set(found.float_names()) == set(floats)
    for name in floats:
        assert bytes(found.checkpoint.tensors.raw(name)) == bytes(expected.checkpoint.tensors.raw(name))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "opt", "t5", "bert", "mixtral"])
def test_a_checkpoint_comes_back_as_it_was(
    layout: str, family: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    params = dict(LAYOUTS[layout])
    if family in ("qwen2", "opt", "t5", "bert"):
        params["lm_head_bits"] = 16  # tied, or none
    source = quantized(run_stage, tiny_checkpoint(family, "bfloat16"), **params)
    written = run_stage("export.checkpoint", {"model": source}, layout=layout, scale_dtype="float32")
    loaded = run_stage("load.quantized", {}, model=str(written.path))
    found, expected = QuantizedCheckpoint.open(loaded.path), QuantizedCheckpoint.open(source.path)
    assert_same_weights(found, expected)
    before, after = expected.checkpoint.config, found.checkpoint.config
    assert before == after
    assert found.method == layout
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (loaded.path / name).read_bytes() == (source.path / name).read_bytes()
    assert written.facts["scale_cast_error"] == 0


def test_gpt2_goes_through_gptq_transposed_once(tiny_checkpoint: Any, run_stage: Any) -> None:
    source = quantized(run_stage, tiny_checkpoint("gpt2"), bits=4, group_size=32, lm_head_bits=16)
    written = run_stage("export.checkpoint", {"model": source}, layout="gptq", scale_dtype="float32")
    loaded = run_stage("load.quantized", {}, model=str(written.path))
    found = QuantizedCheckpoint.open(loaded.path)
    assert_same_weights(found, QuantizedCheckpoint.open(source.path))
    assert all(spec.stored_in_out for spec in found.quantized.values())
    plain = run_stage("dequantize", {"model": loaded})
    name = "transformer.h.0.attn.c_attn.weight"
    assert np.array_equal(Checkpoint.open(plain.path).tensors.array(name).T, found.weight(name).dequantize())


def test_files_are_split_and_indexed_with_the_tensors_of_a_weight_together(
    tiny_checkpoint: Any, run_stage: Any
) -> None:
    source = quantized(run_stage, tiny_checkpoint("llama"), bits=4, group_size=32, sym=False)
    whole = run_stage("export.checkpoint", {"model": source}, layout="gptq")
    split = run_stage("export.checkpoint", {"model": source}, layout="gptq", max_shard_bytes=30_000)
    index = json.loads((split.path / "model.safetensors.index.json").read_text())
    files = sorted(split.path.glob("model-*.safetensors"))
    assert [path.name for path in files] == sorted(set(index["weight_map"].values()))
    assert files[-1].name == f"model-{len(files):05}-of-{len(files):05}.safetensors"
    assert len(files) == split.facts["weight_files"] > 2
    modules: dict[str, set[str]] = {}
    for name, file in index["weight_map"].items():
        if name.rpartition(".")[2] in ("qweight", "qzeros", "scales", "g_idx"):
            modules.setdefault(name.rpartition(".")[0], set()).add(file)
    assert modules
    assert all(len(places) == 1 for places in modules.values())
    ours, theirs = TensorSource.open(files), Checkpoint.open(whole.path).tensors
    assert sum(ours.info(name).nbytes for name in ours.names()) == index["metadata"]["total_size"]
    assert set(ours.names()) == set(theirs.names()) == set(index["weight_map"])
    for name in ours.names():
        assert bytes(ours.raw(name)) == bytes(theirs.raw(name))
    assert whole.facts["weight_files"] == 1


def test_every_tensor_is_aligned_and_loads_in_safetensors(tiny_checkpoint: Any, run_stage: Any) -> None:
    from safetensors import safe_open

    source = quantized(run_stage, tiny_checkpoint("llama", "bfloat16"), bits=3, group_size=16, sym=False)
    written = run_stage("export.checkpoint", {"model": source}, max_shard_bytes=40_000)
    for path in written.path.glob("*.safetensors"):
        source_tensors = TensorSource.open([path])
        with safe_open(path, "pt") as stream:
            assert stream.metadata() == {"format": "pt"}
            for name in stream.keys():  # noqa: SIM118 - it is no mapping
                info = source_tensors.info(name)
                assert info.start % (info.nbytes // max(1, info.count)) == 0
                assert tuple(stream.get_tensor(name).shape) == info.shape


def test_an_unquantized_checkpoint_is_copied_and_split(tiny_checkpoint: Any, run_stage: Any) -> None:
    directory = tiny_checkpoint("qwen3", "bfloat16")
    written = run_stage("export.checkpoint", {"model": directory}, max_shard_bytes=50_000)
    before, after = Checkpoint.open(directory), Checkpoint.open(written.path)
    assert after.config == before.config
    assert "layout" not in written.facts
    for name in before.tensors.names():
        assert bytes(after.tensors.raw(name)) == bytes(before.tensors.raw(name))


def test_scales_that_are_rounded_are_owned_up_to(tiny_checkpoint: Any, run_stage: Any) -> None:
    source = quantized(run_stage, tiny_checkpoint("llama"), bits=4, group_size=32)
    notes: list[str] = []
    written = run_stage("export.checkpoint", {"model": source}, notes=notes, layout="gptq")
    error = written.facts["scale_cast_error"]
    assert 0 < error <= 2**-11
    assert written.facts["scale_dtype"] == "float16"
    (note,) = notes
    assert f"{error:.2g}" in note
    kept, given = QuantizedCheckpoint.open(source.path), Checkpoint.open(written.path).tensors
    worst = max(
        np.abs(given.float32(f"{name.removesuffix('.weight')}.scales").T / kept.weight(name).scales - 1).max()
        for name in kept.quantized
    )
    assert worst == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(
    ("family", "layout", "params", "message", "fix"),
    [
        ("llama", "awq", {"bits": 3, "lm_head_bits": 16}, "3-bit", "gptq"),
        ("llama", "awq", {"bits": 4, "lm_head_bits": 8}, "8-bit", "4 bits"),
        ("llama", "awq", {"bits": 4, "lm_head_bits": 4}, "output heads", "lm_head_bits: 16"),
        ("llama", "gptq", {"bits": 4, "embedding_bits": 8}, "embeddings", "embedding_bits: 16"),
        ("llama-tied", "gptq", {"bits": 4, "embedding_bits": 8}, "embeddings", "lm_head_bits: 16"),
        ("llama", "bitsandbytes", {"bits": 4, "lm_head_bits": 4}, "int4", "nf4"),
        ("llama", "gptq", {"bits": 4, "group_size": 64}, "groups of 64 in rows of 160", "divides 160"),
        ("gpt2", "compressed-tensors", {"bits": 4, "lm_head_bits": 16}, "Conv1D", "gptq"),
        ("gpt2", "awq", {"bits": 4, "lm_head_bits": 16}, "Conv1D", "gptq"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(
    family: str, layout: str, params: Any, message: str, fix: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    source = run_stage("quantize.rtn", {"model": tiny_checkpoint(family)}, **{"embedding_bits": 16, **params})
    with pytest.raises(InputError, match=message) as refused:
        run_stage("export.checkpoint", {"model": source}, layout=layout)
    assert fix in (refused.value.fix or "")


def test_activations_go_into_compressed_tensors_alone(tiny_checkpoint: Any, run_stage: Any) -> None:
    source = run_stage("quantize.dynamic", {"model": tiny_checkpoint("llama")}, embedding_bits=16)
    with pytest.raises(InputError, match="no dynamic activations"):
        run_stage("export.checkpoint", {"model": source}, layout="gptq")
    written = run_stage("export.checkpoint", {"model": source})
    config = json.loads((written.path / "config.json").read_text())["quantization_config"]
    assert config["format"] == "int-quantized"
    loaded = QuantizedCheckpoint.open(run_stage("load.quantized", {}, model=str(written.path)).path)
    assert_same_weights(loaded, QuantizedCheckpoint.open(source.path))


def test_widths_side_by_side_are_groups_of_modules(tiny_checkpoint: Any, run_stage: Any) -> None:
    source = quantized(run_stage, tiny_checkpoint("llama"), bits=2, group_size=32, sym=False, lm_head_bits=8)
    for layout in ("compressed-tensors", "gptq"):
        written = run_stage("export.checkpoint", {"model": source}, layout=layout, scale_dtype="float32")
        loaded = QuantizedCheckpoint.open(run_stage("load.quantized", {}, model=str(written.path)).path)
        assert_same_weights(loaded, QuantizedCheckpoint.open(source.path))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layout": "awq", "checkpoint_format": "gptq"}, "no versions"),
        ({"layout": "bitsandbytes", "scale_dtype": "float16"}, "no scales in float16"),
    ],
)
def test_parameters_without_effect_are_refused(
    params: Any, message: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    source = quantized(run_stage, tiny_checkpoint("llama"), bits=4, group_size=32)
    with pytest.raises(InputError, match=message):
        run_stage("export.checkpoint", {"model": source}, **params)


def test_a_zero_point_of_zero_is_refused_by_the_first_version_of_gptq(
    tiny_checkpoint: Any, run_stage: Any
) -> None:
    source = quantized(run_stage, tiny_checkpoint("llama"), bits=2, group_size=16, sym=False)
    weights = QuantizedCheckpoint.open(source.path)
    assert any((weights.weight(name).zeros == 0).any() for name in weights.quantized)
    with pytest.raises(InputError, match="zero point of 0") as refused:
        run_stage("export.checkpoint", {"model": source}, layout="gptq", checkpoint_format="gptq")
    assert "gptq_v2" in (refused.value.fix or "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, name: tensors[f"{name}.codes"].fill(16), "the code 16 in 4 bits"),
        (lambda tensors, name: tensors[f"{name}.zeros"].fill(7), "not all 8"),
    ],
)
def test_codes_that_contradict_their_record_are_corrupt(
    change: Any, message: str, tiny_checkpoint: Any, run_stage: Any, tmp_path: Any
) -> None:
    import shutil
    from dataclasses import replace

    from safetensors.numpy import load_file, save_file

    source = quantized(run_stage, tiny_checkpoint("llama"), bits=4, group_size=32)
    shutil.copytree(source.path, tmp_path / "q")
    for path in ((tmp_path / "q"), *(tmp_path / "q").iterdir()):
        path.chmod(0o755)
    tensors = {name: value.copy() for name, value in load_file(tmp_path / "q" / "model.safetensors").items()}
    change(tensors, "model.layers.1.mlp.down_proj.weight")
    save_file(tensors, tmp_path / "q" / "model.safetensors")
    with pytest.raises(CorruptError, match=message):
        run_stage("export.checkpoint", {"model": replace(source, path=tmp_path / "q")})
