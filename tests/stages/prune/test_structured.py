"""`prune.structured` on all kinds of checkpoints: what is left loads, and computes what it should."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError
from ingot.stages.model.calibration.samples import take
from ingot.stages.model.channels import groups, kept_places
from ingot.stages.model.torch_network import Network
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "prune.structured"
IDS = np.array([[5, 17, 200, 31, 44, 90, 123, 7, 260, 311, 64, 12]])
SOURCES = np.array([[9, 41, 300, 77, 150, 26]])
ALL = [
    "llama", "llama-tied", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma", "gemma2", "gemma3_text",
    "gpt_neox", "opt", "mixtral", "qwen2_moe", "qwen3_moe", "bert", "roberta", "distilbert", "t5", "bart",
]  # fmt: skip
# Those whose config states the width of a head, so that heads can go without the others growing.
WITH_HEADS = [
    "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mixtral", "qwen2_moe", "qwen3_moe", "t5",
]  # fmt: skip


def outputs(directory: Path, task: str) -> np.ndarray:
    """What transformers computes with a checkpoint, all of whose weights it found, in their shapes."""
    return Network(directory, task)(IDS, SOURCES if task == "seq2seq-lm" else None)


def kept_channels(found: Any, kind: str) -> dict[str, list[int]]:
    """By label of a group, the channels that were kept, told from the maps that take them up."""
    before, after = found.before, found.after
    kept = {}
    for group in groups(before.architecture, kind):
        span = group.spans[0]
        old, new = before.tensors.float32(span.tensor), after.tensors.float32(span.tensor)
        old, new = (np.moveaxis(value, span.axis, 0) for value in (old, new))
        # Tensors may have lost entries along the other axes as well: what is compared are sorted prefixes.
        starts = [span.first + channel * span.stride for channel in range(group.count)]
        rows = {old[start].tobytes(): channel for channel, start in enumerate(starts)}
        ours = [rows.get(row.tobytes()) for row in new]
        kept[group.label] = sorted({channel for channel in ours if channel is not None})
    return kept


def zeroed(found: Any, kind: str, kept: dict[str, list[int]], tmp_path: Path) -> Path:
    """The checkpoint that was pruned, with zeros where maps would take up the channels that went."""
    directory = tmp_path / "zeroed"
    shutil.copytree(found.directory, directory)
    weights = load_file(directory / "model.safetensors")
    for group in groups(found.before.architecture, kind):
        gone = [channel for channel in range(group.count) if channel not in kept[group.label]]
        for reader in group.readers:
            value = weights[reader.name].T if not reader.stored_in_out else weights[reader.name]
            value = value.copy().reshape(group.count, group.width, -1)
            value[gone] = 0.0
            value = value.reshape(group.count * group.width, -1)
            weights[reader.name] = np.ascontiguousarray(value if reader.stored_in_out else value.T)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("family", ALL)
def test_without_features_it_computes_what_transformers_does_with_them_zeroed(
    family: str, prune: Any, tmp_path: Path
) -> None:
    found = prune(family, STAGE, ffn=0.5, refit=False)
    task = found.before.architecture.task
    kept = kept_channels(found, "ffn")
    for entry in found.artifact.facts["widths"]:
        assert len(kept[entry["where"]]) == entry["after"] == entry["before"] // 2
    expected = outputs(zeroed(found, "ffn", kept, tmp_path), task)
    np.testing.assert_allclose(outputs(found.artifact.path, task), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", WITH_HEADS)
def test_without_heads_it_computes_what_transformers_does_with_them_zeroed(
    family: str, prune: Any, tmp_path: Path
) -> None:
    found = prune(family, STAGE, heads=0.5, refit=False)
    before, after = found.before.architecture, found.after.architecture
    assert (after.heads, after.head_dim) == (before.heads // 2, before.head_dim)
    assert after.kv_heads == before.kv_heads // 2
    kept = kept_channels(found, "heads")
    assert all(len(channels) == after.kv_heads for channels in kept.values())
    expected = outputs(zeroed(found, "heads", kept, tmp_path), before.task)
    np.testing.assert_allclose(outputs(found.artifact.path, before.task), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi3", "bert", "mixtral", "t5"])
def test_features_whose_outputs_are_zero_go_first_and_nothing_changes(
    family: str, prune: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    source = _silenced(tiny_checkpoint(family), tmp_path, "ffn", half=True)
    found = prune(source, STAGE, ffn=0.5, multiple_of=1)
    task = found.before.architecture.task
    np.testing.assert_allclose(
        outputs(found.artifact.path, task), outputs(source, task), rtol=1e-4, atol=2e-4
    )


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mixtral", "t5"])
def test_heads_whose_outputs_are_zero_go_first_and_nothing_changes(
    family: str, prune: Any, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    source = _silenced(tiny_checkpoint(family), tmp_path, "heads", half=True)
    found = prune(source, STAGE, heads=0.5)
    task = found.before.architecture.task
    np.testing.assert_allclose(
        outputs(found.artifact.path, task), outputs(source, task), rtol=1e-4, atol=2e-4
    )


def _silenced(directory: Path, tmp_path: Path, kind: str, *, half: bool) -> Path:
    """The checkpoint with every second channel giving zero: what makes it is zero, biases included."""
    from ingot.stages.model.checkpoint import Checkpoint

    source = tmp_path / "silenced"
    shutil.copytree(directory, source)
    weights = load_file(source / "model.safetensors")
    for group in groups(Checkpoint.open(directory).architecture, kind):
        taken_up = {reader.name for reader in group.readers}
        for span in group.spans:
            if span.tensor not in taken_up and weights[span.tensor].ndim and "relative" not in span.tensor:
                value = np.moveaxis(weights[span.tensor], span.axis, 0)
                value[sorted(span.entries(range(1, group.count, 2)))] = 0.0
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    return source


def test_a_multi_query_model_loses_query_heads_one_by_one(prune: Any, tmp_path: Path, make_tiny: Any) -> None:
    source = make_tiny("qwen2", num_key_value_heads=1)
    found = prune(source, STAGE, heads=1, refit=False)
    assert (found.after.architecture.heads, found.after.architecture.kv_heads) == (3, 1)
    kept = kept_channels(found, "heads")
    expected = outputs(zeroed(found, "heads", kept, tmp_path), "causal-lm")
    np.testing.assert_allclose(outputs(found.artifact.path, "causal-lm"), expected, rtol=1e-4, atol=1e-4)


def test_a_number_of_heads_that_transformers_refuses_is_refused(prune: Any, make_tiny: Any) -> None:
    with pytest.raises(RecipeError, match="would have 3 heads, and transformers refuses a llama") as caught:
        prune(make_tiny("llama", num_key_value_heads=4), STAGE, heads=1)
    assert caught.value.fix == "leave 1, 2 of them"


def test_refitting_loses_less_on_the_text_and_in_the_network(prune: Any, calibration: Path) -> None:
    plain, fitted = (prune("llama", STAGE, ffn=0.5, refit=refit) for refit in (False, True))
    for name, entry in fitted.tensors.items():
        assert entry["weighted_error"] < entry["cut_weighted_error"], name
    model = plain.before.architecture
    ids = take(calibration, plain.directory, model, 64, 16).batches[0].ids.numpy()
    exact, cut, least = (
        Network(path, model.task)(ids)
        for path in (plain.directory, plain.artifact.path, fitted.artifact.path)
    )
    assert np.linalg.norm(least - exact) < 0.8 * np.linalg.norm(cut - exact)


def test_threads_spilling_and_a_kill_change_no_byte(prune: Any, tmp_path: Path) -> None:
    whole = prune("llama", STAGE, ffn=0.5, layers=1)

    class Killed(Exception):
        """Stands for the end of the process."""

    def die(done: int, _total: int, what: str) -> None:
        if what == "layers.0" and done > 0 and (tmp_path / "job" / "heads-refit").exists():
            raise Killed

    again = prune("llama", STAGE, threads=3, activation_budget_mb=0, ffn=0.5, layers=1)
    assert again.artifact.digest == whole.artifact.digest
    with pytest.raises(Killed):
        prune("llama", STAGE, tmp_path / "job", progress=die, ffn=0.5, layers=1)
    resumed = prune("llama", STAGE, tmp_path / "job", ffn=0.5, layers=1)
    assert resumed.artifact.digest == whole.artifact.digest


def test_the_dtype_is_kept_and_chance_is_seeded(prune: Any, tiny_checkpoint: Any) -> None:
    source = tiny_checkpoint("llama", "bfloat16")
    first, second = (prune(source, STAGE, ffn=0.25, scoring="random") for _ in range(2))
    assert first.artifact.digest == second.artifact.digest
    assert {first.after.tensors.info(name).dtype for name in first.after.tensors.names()} == {"BF16"}
    assert first.artifact.facts["parameters"] == sum(
        first.after.tensors.info(name).count for name in first.after.tensors.names()
    )


@pytest.mark.parametrize(
    ("family", "params", "said"),
    [
        ("llama", {"ffn": 1.0}, "prune.ffn: 1.0 is neither a share above 0 and below 1"),
        ("llama", {"ffn": 0}, "prune.ffn: 0 is neither"),
        ("llama", {}, "nothing would go"),
        ("llama", {"ffn": 160}, "160 leaves none of 160 features"),
        ("llama", {"ffn": 0.01}, "takes none away"),
        ("llama", {"heads": 1}, "1 query heads are not whole groups, 2 of which"),
        ("llama", {"heads": 4}, "leaves none of 2 groups"),
        ("gpt2", {"heads": 0.5}, "has no head_dim in its config"),
        ("bert", {"heads": 0.5}, "has no head_dim in its config"),
        ("t5", {"layers": 1}, "layers of an encoder and of a decoder"),
        ("llama", {"layers": 2}, "leaves none of 2 layers"),
        ("llama", {"ffn": 0.5, "calibration": None}, "there is none"),
        ("llama", {"layers": 1, "scoring": "weight", "calibration": None}, "there is none"),
        ("llama", {"heads": 0.5, "feature_epochs": 1}, "prune.feature_epochs has no effect"),
        ("llama", {"ffn": 0.5, "refit": False, "feature_epochs": 1}, "prune.feature_epochs has no effect"),
        (
            "llama",
            {"ffn": 0.5, "scoring": "weight", "calibration": None, "feature_epochs": 1},
            "prune.feature_epochs has no effect",
        ),
    ],
)
def test_what_cannot_go_is_refused_with_the_rule(
    family: str, params: dict[str, Any], said: str, prune: Any
) -> None:
    with pytest.raises(RecipeError, match=said):
        prune(family, STAGE, **params)


def test_without_a_text_channels_go_by_their_weights(prune: Any) -> None:
    found = prune("llama", STAGE, ffn=64, scoring="weight", calibration=None)
    assert found.after.config["intermediate_size"] == 96
    weights = found.before.tensors
    for layer in range(2):
        root = f"model.layers.{layer}.mlp"
        norms = np.sqrt(
            (weights.float32(f"{root}.gate_proj.weight") ** 2).sum(1)
            + (weights.float32(f"{root}.up_proj.weight") ** 2).sum(1)
            + (weights.float32(f"{root}.down_proj.weight") ** 2).sum(0)
        )
        best = np.sort(np.argsort(-norms)[:96])
        expected = weights.float32(f"{root}.gate_proj.weight")[best]
        np.testing.assert_array_equal(found.after.tensors.float32(f"{root}.gate_proj.weight"), expected)


def test_what_is_said_of_it_is_json_and_tells_widths(prune: Any) -> None:
    found = prune("llama", STAGE, ffn=0.5, heads=0.5)
    json.dumps(found.observed, allow_nan=False)
    widths = found.artifact.facts["widths"]
    assert {"kind": "ffn", "where": "layers.1.feed_forward", "layer": 1, "before": 160, "after": 80} in widths
    assert {"kind": "heads", "where": "layers.0.attention", "layer": 0, "before": 2, "after": 1} in widths


def test_spans_of_a_fused_map_are_those_of_query_key_and_value() -> None:
    from ingot.stages.model.families import architecture

    config = {
        "model_type": "phi3", "hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 3, "num_hidden_layers": 1, "vocab_size": 9,
    }  # fmt: skip
    model = architecture(config, "config.json")
    root = "model.layers.0"
    shapes = {f"{root}.self_attn.qkv_proj.weight": (16, 8), f"{root}.self_attn.o_proj.weight": (8, 8)}
    (group,) = groups(model, "heads")
    kept = kept_places([(group, [1])], shapes.__getitem__)
    # Four query heads of 2, of which the last two share the second of two key heads; then keys, then values.
    assert kept["model.layers.0.self_attn.qkv_proj.weight"][0].tolist() == [4, 5, 6, 7, 10, 11, 14, 15]
    assert kept["model.layers.0.self_attn.o_proj.weight"][1].tolist() == [4, 5, 6, 7]
    shapes = {f"{root}.mlp.gate_up_proj.weight": (6, 8), f"{root}.mlp.down_proj.weight": (8, 3)}
    (group,) = groups(model, "ffn")
    kept = kept_places([(group, [0, 2])], shapes.__getitem__)
    assert kept["model.layers.0.mlp.gate_up_proj.weight"][0].tolist() == [0, 2, 3, 5]
