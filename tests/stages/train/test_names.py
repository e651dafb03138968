"""Names of parameters told from headers are those of the network that transformers makes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from ingot.artifacts.errors import RecipeError
from ingot.artifacts.schema import build
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.train.names import check_patterns, low_rank_names, parameter_names, rounded_names
from ingot.stages.train.network import Network
from ingot.stages.train.params import TrainParams

PREDICTING = (
    "llama", "llama-tied", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma", "gemma2", "mixtral", "qwen2_moe",
    "qwen3_moe", "opt", "gpt_neox", "t5", "bart",
)  # fmt: skip
ENCODERS = ("bert", "roberta", "distilbert")


def of_transformers(source: Checkpoint) -> set[str]:
    """The names that the network itself says; it holds no numbers."""
    import transformers
    from ingot.stages.model.torch_network import CLASSES

    config = transformers.AutoConfig.from_pretrained(source.directory)
    with torch.device("meta"):
        module = getattr(transformers, CLASSES[source.architecture.task]).from_config(config)
    return {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("family", [*PREDICTING, *ENCODERS])
def test_names_are_those_of_the_network(family, tiny_checkpoint):
    source = Checkpoint.open(tiny_checkpoint(family))
    found, expected = set(parameter_names(source)), of_transformers(source)
    if family == "gpt_neox":  # its head has two names, by release
        found &= expected
    # A pooler that no checkpoint of the test has is made of random numbers, and nobody trains it.
    assert found == {name for name in expected if not name.startswith("pooler.")}


@pytest.mark.parametrize(("family", "root"), [("gpt2", "transformer."), ("bert", "bert.")])
def test_names_do_not_depend_on_how_a_checkpoint_was_saved(family, root, tiny_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    source = tiny_checkpoint(family)
    other = shutil.copytree(source, tmp_path / "other")
    tensors = load_file(source / "model.safetensors")
    renamed = {
        name.removeprefix(root) if family == "gpt2" else root + name: each for name, each in tensors.items()
    }
    save_file(renamed, other / "model.safetensors", metadata={"format": "pt"})
    assert renamed.keys() != tensors.keys()
    assert set(parameter_names(Checkpoint.open(other))) == set(parameter_names(Checkpoint.open(source)))


def test_names_of_layers_that_are_stored_smaller_are_those_of_whole_ones(tiny_checkpoint, run_stage):
    source = tiny_checkpoint("llama")
    made = run_stage("factor.svd", {"model": source}, ratio=0.5)
    names = parameter_names(Checkpoint.open(made.path))
    assert set(names) == set(parameter_names(Checkpoint.open(source)))


def test_a_network_outside_of_the_table_has_no_names_that_are_known(tiny_checkpoint, tmp_path):
    other = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    assert parameter_names(Checkpoint.open(other)) is None


@pytest.mark.parametrize("family", ["llama-tied", "mixtral"])
def test_names_under_rounding_and_of_low_rank_changes_are_among_those_said(family, tiny_checkpoint):
    from ingot.stages.finetune.low_rank import adapt
    from ingot.stages.quantize.formats import choose
    from ingot.stages.quantize.placement import Rounding
    from ingot.stages.quantize.qat import QatParams
    from ingot.stages.quantize.qat_start import from_checkpoint

    source = Checkpoint.open(tiny_checkpoint(family))
    params = build(QatParams, {"training_text": "t", "sym": False, "group_size": 32})
    network, start = Network.load(source), from_checkpoint(source, params.choice())
    assert start.specs == choose(source.architecture, params.choice())
    Rounding(network, start.specs, start.grids, learn_zeros=True)
    assert {name for name, _ in network.module.named_parameters()} <= set(rounded_names(source))
    network = Network.load(source)
    adapt(network.module, 2, 1.0, (), (), {}, {})
    trained = {name for name, each in network.module.named_parameters() if each.requires_grad}
    assert trained <= set(low_rank_names(source))


def test_what_training_takes_is_told_without_a_framework(tiny_checkpoint):
    script = (
        "import sys; from pathlib import Path\n"
        "from ingot.artifacts.schema import build; from ingot.stages import base\n"
        "from ingot.stages.model.checkpoint import Checkpoint\n"
        "given = Path(sys.argv[1])\n"
        "for name in ('distill', 'finetune.full', 'finetune.lora', 'prune.gradual', 'quantize.qat'):\n"
        "    stage = base.get(name); params = build(stage.params, {'training_text': 't'})\n"
        "    stage.preflight(params, {'model': given, 'teacher': given})\n"
        "    assert stage.parameters(params, Checkpoint.open(given))\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'accelerate'} & sys.modules.keys()))\n"
    )
    command = [sys.executable, "-c", script, str(tiny_checkpoint("t5"))]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"freeze": ["*.mpl.*"]}, r"freeze: '\*.mpl.\*' matches no parameter"),
        ({"groups": {"*.mpl.*": {"learning_rate": 1.0}}}, r"groups: '\*.mpl.\*' matches no parameter"),
        # What stays as it is is in no group.
        ({"freeze": ["a.*"], "groups": {"a.up": {"learning_rate": 1.0}}}, "groups: 'a.up' matches no"),
        ({"freeze": ["a.*", "b.*"]}, "freeze: nothing is left to train"),
    ],
)
def test_patterns_that_match_nothing_are_refused(params, message):
    names = ("a.up", "a.down", "b.up")
    check_patterns(build(TrainParams, {"training_text": "t", "freeze": ["b.*"]}), names)
    with pytest.raises(RecipeError, match=message):
        check_patterns(build(TrainParams, {"training_text": "t", **params}), names)
