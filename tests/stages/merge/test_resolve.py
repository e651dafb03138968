"""What a merge does to every tensor, against parameters worked out by hand, and who is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import InputError
from ingot.artifacts.yaml import parse_yaml
from ingot.stages.merge.build import stored
from ingot.stages.merge.config import read
from ingot.stages.merge.method import get
from ingot.stages.merge.models import open_models
from ingot.stages.merge.output_config import output_config
from ingot.stages.merge.references import Inputs
from ingot.stages.merge.resolve import resolve
from ingot.stages.model.checkpoint import Checkpoint
from safetensors.numpy import load_file, save_file

from .networks import config, llama, save, shapes, values

if TYPE_CHECKING:
    from pathlib import Path

    from ingot.stages.merge.resolve import Plan
    from ingot.stages.merge.task import TensorTask


def planned(text: str, folder: Path) -> tuple[Plan, dict[str, object]]:
    """The plan and the config of a file of mergekit's whose models are directories in ``folder``."""
    inputs = Inputs(folder)
    recipe = read(parse_yaml(text, "merge.yaml"), inputs)
    opened = {name: Checkpoint.open(folder / inputs.sources[name].name) for name in recipe.inputs()}
    models = open_models(opened, inputs.written(), recipe.donor)
    plan = resolve(recipe, get(recipe.method), models, stored)
    return plan, output_config(models[recipe.donor], models, plan)


def labels(task: TensorTask) -> list[str]:
    return [each.operand.label for each in task.inputs]


def weight(plan: Plan, name: str) -> list[Any]:
    task = next(task for task in plan.tasks if task.output.name == name)
    return [each.parameters["weight"] for each in task.inputs]


def test_slices_stack_layers_of_several_models_in_their_order(tmp_path: Path) -> None:
    llama(tmp_path / "a", 3, 1)
    llama(tmp_path / "b", 4, 2)
    plan, settings = planned(
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 2]}]\n- sources: [{model: b, layer_range: [1, 4]}]\n",
        tmp_path,
    )
    assert settings["num_hidden_layers"] == 5
    found = {task.output.name: labels(task) for task in plan.tasks}
    assert set(found) == set(shapes(5))
    origins = [
        "model1:model.layers.0",
        "model1:model.layers.1",
        *(f"model2:model.layers.{n}" for n in (1, 2, 3)),
    ]
    for layer, origin in enumerate(origins):
        assert found[f"model.layers.{layer}.mlp.up_proj.weight"] == [f"{origin}.mlp.up_proj.weight"]
    # What is before the layers is the first slice's, what is behind them the last one's.
    assert found["model.embed_tokens.weight"] == ["model1:model.embed_tokens.weight"]
    assert found["model.norm.weight"] == ["model2:model.norm.weight"]
    assert found["lm_head.weight"] == ["model2:lm_head.weight"]


def test_a_gradient_runs_from_a_slices_first_layer_to_its_last(tmp_path: Path) -> None:
    llama(tmp_path / "a", 5, 1)
    llama(tmp_path / "b", 5, 2)
    plan, _ = planned(
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: [0, 1, 0.5]}}\n"
        "- {model: b, parameters: {weight: [{filter: mlp, value: [1, 0]}, {filter: q_proj, value: 7}]}}\n"
        "parameters: {weight: 0.25}\n",
        tmp_path,
    )
    # Layers stand at 0, 1/4, 1/2, 3/4 and 1 of the three points, so at 0, 1/2 and 1 of each of the two spans.
    for layer, expected in enumerate([0.0, 0.5, 1.0, 0.75, 0.5]):
        assert weight(plan, f"model.layers.{layer}.self_attn.q_proj.weight") == [expected, 7]
        assert weight(plan, f"model.layers.{layer}.mlp.up_proj.weight") == [expected, 1 - layer / 4]
        assert weight(plan, f"model.layers.{layer}.self_attn.k_proj.weight") == [expected, 0.25]
    assert weight(plan, "model.embed_tokens.weight") == [0.0, 0.25]
    assert weight(plan, "model.norm.weight") == weight(plan, "lm_head.weight") == [0.5, 0.25]


def test_a_filter_of_a_model_sees_the_name_of_its_own_layer(tmp_path: Path) -> None:
    llama(tmp_path / "a", 3, 1)
    plan, _ = planned(
        "merge_method: linear\nslices:\n- sources:\n  - model: a\n    layer_range: [1, 3]\n"
        "    parameters: {weight: [{filter: layers.1., value: 2}, {value: 3}]}\n",
        tmp_path,
    )
    assert weight(plan, "model.layers.0.mlp.up_proj.weight") == [2]
    assert weight(plan, "model.layers.1.mlp.up_proj.weight") == [3]


def test_what_is_nearer_to_a_model_goes_before_what_holds_for_all(tmp_path: Path) -> None:
    for name in "ab":
        llama(tmp_path / name, 2)
    plan, _ = planned(
        "merge_method: linear\nparameters: {weight: 1, normalize: false}\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 1]}, "
        "{model: b, layer_range: [0, 1], parameters: {weight: 3}}]\n"
        "  parameters: {weight: 2}\n"
        "- sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]\n"
        "  parameters: {normalize: true}\n",
        tmp_path,
    )
    assert weight(plan, "model.layers.0.mlp.up_proj.weight") == [2, 3]
    assert weight(plan, "model.layers.1.mlp.up_proj.weight") == [1, 1]
    shared = {task.output.name: task.parameters["normalize"] for task in plan.tasks}
    assert (shared["model.layers.0.mlp.up_proj.weight"], shared["model.layers.1.mlp.up_proj.weight"]) == (
        False,
        True,
    )


def test_each_slice_may_have_a_base_of_its_own(tmp_path: Path) -> None:
    for name in "abc":
        llama(tmp_path / name, 2)
    plan, _ = planned(
        "merge_method: ties\nbase_model: a\nparameters: {weight: 1}\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [1, 2]}]\n"
        "- sources: [{model: c, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]\n  base_model: c\n",
        tmp_path,
    )
    found = {task.output.name: (task.base and task.base.label, labels(task)) for task in plan.tasks}
    name = "mlp.up_proj.weight"
    assert found[f"model.layers.0.{name}"] == (
        f"model1:model.layers.0.{name}",
        [f"model2:model.layers.1.{name}"],
    )
    assert found[f"model.layers.1.{name}"] == (
        f"model3:model.layers.0.{name}",
        [f"model2:model.layers.0.{name}"],
    )
    assert found["model.embed_tokens.weight"][0] == "model1:model.embed_tokens.weight"
    assert found["model.norm.weight"][0] == "model3:model.norm.weight"


def test_modules_are_the_stacks_of_an_encoder_decoder(tmp_path: Path, tiny_checkpoint: Any) -> None:
    for name in "ab":
        (tmp_path / name).symlink_to(tiny_checkpoint("t5"))
    text = (
        "merge_method: linear\nmodules:\n  encoder: {models: [{model: a, parameters: {weight: 1}}]}\n"
        "  decoder: {models: [{model: b}], parameters: {weight: 2}}\n"
    )
    plan, _ = planned(text, tmp_path)
    found = {
        task.output.name: (labels(task)[0].partition(":")[0], task.inputs[0].parameters["weight"])
        for task in plan.tasks
    }
    assert found["encoder.block.1.layer.0.SelfAttention.q.weight"] == ("model1", 1)
    assert found["decoder.block.1.layer.0.SelfAttention.q.weight"] == ("model2", 2)
    assert found["encoder.final_layer_norm.weight"] == ("model1", 1)
    assert found["decoder.final_layer_norm.weight"] == ("model2", 2)
    with pytest.raises(InputError, match=r"does not have a stack of layers 'encodr'"):
        planned(text.replace("encoder:", "encodr:"), tmp_path)


def test_a_tied_head_stands_for_its_embedding_beside_one_that_is_not(tmp_path: Path) -> None:
    llama(tmp_path / "a", 1, tied=True)
    llama(tmp_path / "b", 1)
    text = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n"
    plan, settings = planned(text, tmp_path)
    heads = next(task for task in plan.tasks if task.output.name == "lm_head.weight")
    assert labels(heads) == ["model1:model.embed_tokens.weight", "model2:lm_head.weight"]
    assert settings["tie_word_embeddings"] is False
    assert not plan.is_tied


def test_a_stored_copy_of_a_tied_head_is_left_out(tmp_path: Path) -> None:
    for name in "ab":
        weights = values(shapes(1, tied=True), 0)
        head = {"lm_head.weight": weights["model.embed_tokens.weight"]} if name == "a" else {}
        save(tmp_path / name, config(1, tied=True), {**weights, **head})
    text = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n"
    plan, settings = planned(text, tmp_path)
    assert {task.output.name for task in plan.tasks} == set(shapes(1, tied=True))
    assert settings["tie_word_embeddings"] is True


def test_a_network_that_was_saved_without_its_prefix_is_the_same_network(
    tmp_path: Path, tiny_checkpoint: Any
) -> None:
    (tmp_path / "a").symlink_to(tiny_checkpoint("bert"))
    weights = load_file(tiny_checkpoint("bert") / "model.safetensors")
    (tmp_path / "b").mkdir()
    for path in tiny_checkpoint("bert").iterdir():
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    renamed = {
        name.removeprefix("bert.") if name.startswith("bert.") else f"bert.{name}": each
        for name, each in weights.items()
    }
    save_file(renamed, tmp_path / "b" / "model.safetensors", {"format": "pt"})
    plan, _ = planned(
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n", tmp_path
    )
    for task in plan.tasks:
        first, second = (label.partition(":")[2] for label in labels(task))
        assert np.array_equal(weights[first], renamed[second])


def test_the_order_of_tensors_in_files_does_not_matter(tmp_path: Path) -> None:
    weights = values(shapes(2), 0)
    for name, order in (("a", sorted(weights)), ("b", sorted(weights, reverse=True))):
        save(tmp_path / name, config(2), {key: weights[key] for key in order})
    texts = [f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {n}}}]\n" for n in "ab"]
    one, other = (planned(text, tmp_path)[0] for text in texts)
    assert [task.output for task in one.tasks] == [task.output for task in other.tasks]


def test_bytes_are_known_before_anything_is_read(tmp_path: Path) -> None:
    for name in "ab":
        llama(tmp_path / name, 2)
    text = (
        "merge_method: linear\ndtype: bfloat16\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n"
    )
    plan, settings = planned(text, tmp_path)
    count = sum(int(np.prod(shape)) for shape in shapes(2).values())
    assert (plan.read_bytes, plan.written_bytes) == (2 * 4 * count, 2 * count)
    assert settings["dtype"] == "bfloat16"


LINEAR = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n"


def broken(folder: Path, **changed: object) -> Path:
    return llama(folder / "b", 2, 1, **changed)  # type: ignore[arg-type]


def changed(folder: Path, name: str, value: Any) -> Path:
    """A model with a tensor more, another one, or, for None, one fewer."""
    weights = {**values(shapes(2), 1), name: value}
    kept = {name: value for name, value in weights.items() if value is not None}
    return save(folder / "b", config(2), kept)


@pytest.mark.parametrize(
    ("make", "what", "fix"),
    [
        (lambda f: llama(f / "b", 3), "b has 3 layers, but a has 2", "layer_range"),
        (lambda f: broken(f, vocab_size=12), "model.embed_tokens.weight of shape [12, 8], but a has [10, 8]",
         "tokenizer_source"),
        (lambda f: broken(f, architectures=["MistralForCausalLM"], model_type="mistral"),
         "b is a MistralForCausalLM, but a is a LlamaForCausalLM", "one architecture"),
        (lambda f: broken(f, quantization_config={"quant_method": "gptq"}), "b is quantized", "dequantize"),
        (lambda f: changed(f, "model.layers.0.mlp.up_proj.weight", None),
         "b lacks model.layers.0.mlp.up_proj.weight, which a has", "one architecture"),
        (lambda f: changed(f, "model.layers.1.odd", np.zeros(2, np.float32)),
         "b has model.layers.1.odd, which a lacks", "one architecture"),
        (lambda f: changed(f, "model.odd.weight", np.zeros(2, np.float32)),
         "b has model.odd.weight, which a lacks", "one architecture"),
        (lambda f: changed(f, "model.norm.weight", np.zeros(8, np.int64)),
         "b: model.norm.weight is I64", "floating point"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit_are_refused_with_the_tensor_and_what_to_do(
    make: Any, what: str, fix: str, tmp_path: Path
) -> None:
    llama(tmp_path / "a", 2)
    make(tmp_path)
    with pytest.raises(InputError) as caught:
        planned(LINEAR, tmp_path)
    assert what in caught.value.what
    assert fix in (caught.value.fix or "")


def test_layers_that_a_model_does_not_have_are_refused(tmp_path: Path) -> None:
    llama(tmp_path / "a", 2)
    slices = "[{sources: [{model: a, layer_range: [1, 3]}]}]"
    text = f"merge_method: linear\nparameters: {{weight: 1}}\nslices: {slices}\n"
    with pytest.raises(InputError, match=r"a has 2 layers, so slice 0 cannot take \[1, 3\] of it"):
        planned(text, tmp_path)


def test_a_parameter_that_nothing_gives_is_named_with_its_model(tmp_path: Path) -> None:
    for name in "ab":
        llama(tmp_path / name, 1)
    with pytest.raises(InputError, match="linear needs weight for b, and the recipe gives none"):
        planned("merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b}]\n", tmp_path)


def test_one_model_may_be_merged_with_its_own_next_layer(tmp_path: Path) -> None:
    llama(tmp_path / "a", 3)
    plan, _ = planned(
        "merge_method: linear\nparameters: {weight: 1}\n"
        "slices: [{sources: [{model: a, layer_range: [0, 2]}, {model: a, layer_range: [1, 3]}]}]\n",
        tmp_path,
    )
    found = {task.output.name: labels(task) for task in plan.tasks}
    name = "mlp.up_proj.weight"
    assert found[f"model.layers.1.{name}"] == [
        f"model1:model.layers.1.{name}",
        f"model1:model.layers.2.{name}",
    ]


def test_what_a_config_says_of_each_layer_follows_the_layer(tmp_path: Path, tiny_checkpoint: Any) -> None:
    (tmp_path / "a").symlink_to(tiny_checkpoint("gemma2"))
    written = Checkpoint.open(tmp_path / "a").config["layer_types"]
    assert written == ["sliding_attention", "full_attention"]
    _, settings = planned(SWAPPED, tmp_path)
    assert settings["layer_types"] == ["full_attention", "sliding_attention"]


def test_a_list_that_is_as_long_as_there_are_layers_need_not_be_of_them(tmp_path: Path) -> None:
    save(tmp_path / "a", config(2, eos_token_id=[3, 7]), values(shapes(2), 1))
    _, settings = planned(SWAPPED, tmp_path)
    assert settings["eos_token_id"] == [3, 7]


def test_another_models_list_that_ends_before_the_layer_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", config(2, spans=[1, 2]), values(shapes(2), 1))
    save(tmp_path / "b", config(3, spans=[1, 2]), values(shapes(3), 2))
    text = (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 2]}]\n- sources: [{model: b, layer_range: [2, 3]}]\n"
    )
    with pytest.raises(InputError, match="says spans of its layers, which another model does not"):
        planned(text, tmp_path)


def test_layers_that_would_lose_their_window_are_refused(tmp_path: Path, tiny_checkpoint: Any) -> None:
    source = Checkpoint.open(tiny_checkpoint("gemma2"))
    # As the first files of Gemma 2 were: every other layer slides, and nothing says so.
    settings = {key: value for key, value in source.config.items() if key != "layer_types"}
    save(tmp_path / "a", settings, load_file(source.directory / "model.safetensors"))
    with pytest.raises(
        InputError, match="layer 0 would see a window of 7 positions, but it saw all as layer 1"
    ):
        planned(SWAPPED, tmp_path)


SWAPPED = (
    "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
    "- sources: [{model: a, layer_range: [1, 2]}]\n- sources: [{model: a, layer_range: [0, 1]}]\n"
)
