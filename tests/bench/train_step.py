"""One step of a training in a process of its own, for `bench_distill.py`: time, memory, gradients.

    python tests/bench/train_step.py MODEL TEXT plain|checkpointed|accumulated

held_bytes is what activations hold at the end of the way forward: tensors that autograd keeps for the way
back, counted once where they share memory, parameters left out.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from ingot.artifacts.schema import build
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.train.hooks import Hook
from ingot.stages.train.network import Network
from ingot.stages.train.objective import Loss, NextToken
from ingot.stages.train.params import TrainParams
from ingot.stages.train.text import read_corpus
from ingot.stages.train.trainer import Setup, train

KINDS = {
    "plain": {},
    "checkpointed": {"gradient_checkpointing": True},
    "accumulated": {"accumulation": 4},
}
STEPS = 3


class Watched(NextToken):
    """The loss of the next token, and what autograd keeps of it."""

    held_bytes = 0

    def loss(self, network: torch.nn.Module, batch: object) -> Loss:
        """As the loss that is watched."""
        own = {each.untyped_storage().data_ptr() for each in network.parameters()}
        kept: dict[int, int] = {}

        def pack(value: torch.Tensor) -> torch.Tensor:
            storage = value.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            found = super().loss(network, batch)
        self.held_bytes = max(self.held_bytes, sum(kept.values()))
        return found


class Gradients(Hook):
    """The norms of the first step's gradients, and how far they are from those of an earlier run."""

    def __init__(self, network: torch.nn.Module, path: Path) -> None:
        self._network, self._path = network, path
        self.began = 0.0

    def gradients(self, step: int) -> None:
        """Keeps them."""
        if step == 0:
            torch.save(
                {name: each.grad.clone() for name, each in self._network.named_parameters()}, self._path
            )

    def stepped(self, done: int) -> None:
        """The first step warms up."""
        if done == 1:
            self.began = time.process_time()


def main() -> None:
    """Prints one line of JSON."""
    model, text, kind, gradients = Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
    fixed = {
        "training_text": text,
        "batch_size": 8,
        "steps": STEPS,
        "precision": "fp32",
        "selection_windows": 1,
    }
    params = build(TrainParams, {**fixed, "evaluate_every": STEPS, **KINDS[kind]})
    source = Checkpoint.open(model)
    network, corpus, objective = Network.load(source), read_corpus(source, params, print), Watched()
    hook = Gradients(network.module, gradients)
    with tempfile.TemporaryDirectory() as job:
        train(Setup(network.module, objective, corpus, params, Path(job), kind, hooks=(hook,)))
    took = time.process_time() - hook.began
    layers = len(source.architecture.layers)
    print(json.dumps({"held_bytes": objective.held_bytes, "cpu_seconds": took, "layers": layers}))


if __name__ == "__main__":
    main()
