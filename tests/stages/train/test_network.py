"""From a checkpoint to a network and back: every family's own names, dtypes and ties."""

from __future__ import annotations

import pytest
import torch
from ingot.artifacts.tensors import TensorSource
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.train.network import Network

from ...conftest import FAMILIES


def raw(directory):
    tensors = TensorSource.open([directory / "model.safetensors"])
    shapes = {name: tensors.info(name) for name in tensors.names()}
    return {name: (each.dtype, each.shape, bytes(tensors.raw(name))) for name, each in shapes.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_that_was_not_trained_is_written_byte_for_byte(tiny_checkpoint, tmp_path, family):
    source = tiny_checkpoint(family, "bfloat16")
    Network.load(Checkpoint.open(source)).write_directory(tmp_path / "out")
    assert raw(tmp_path / "out") == raw(source)
    assert (tmp_path / "out" / "config.json").read_bytes() == (source / "config.json").read_bytes()


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "qwen3", "mixtral", "bert", "t5"])
def test_trained_weights_are_what_transformers_loads_again(tiny_checkpoint, tmp_path, family):
    network = Network.load(Checkpoint.open(tiny_checkpoint(family, "bfloat16")))
    with torch.no_grad():
        for parameter in network.module.parameters():
            parameter.mul_(2)  # exact in every dtype
    network.write_directory(tmp_path / "out")
    again = Network.load(Checkpoint.open(tmp_path / "out")).module
    for name, value in network.module.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_only_weights_that_changed_count_as_moved(tiny_checkpoint, run_stage, store):
    network = Network.load(Checkpoint.open(tiny_checkpoint("llama", "bfloat16")))
    name = "model.layers.1.mlp.up_proj.weight"
    weight = network.module.get_parameter(name)
    with torch.no_grad():
        weight.mul_(1.5)
    with store.outbox() as outbox:
        assert network.write(outbox) == {name: pytest.approx(0.5, rel=1e-2)}


def test_maps_with_many_zeros_are_pruned_and_tables_never(tiny_checkpoint):
    network = Network.load(Checkpoint.open(tiny_checkpoint("gpt2")))
    pruned = "transformer.h.0.mlp.c_fc.weight"
    with torch.no_grad():
        network.module.get_parameter(pruned)[:, :64] = 0
        network.module.get_parameter("transformer.h.1.mlp.c_fc.weight")[0, :8] = 0
        network.module.get_parameter("transformer.wte.weight")[100:] = 0
    assert list(network.pruned()) == [pruned]
