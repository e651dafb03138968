"""Squared gradients of outputs: those that transformers' network gives for the same drawn tokens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ingot.stages.model.blocks.network import Batch
from ingot.stages.model.calibration.fisher import Fisher
from ingot.stages.model.calibration.shelf import Shelf
from ingot.stages.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

SEED = 11


def batches(count: int = 2) -> list[Batch]:
    ids = torch.arange(4, 4 + 24 * count).reshape(count, 1, 2, 12) * 7 % 320
    return [Batch(each[0], each[0].flip(1)) for each in ids]


def squares(directory: Path, tmp_path: Path, threads: int = 1, count: int = 2) -> dict[str, torch.Tensor]:
    source = Checkpoint.open(directory)
    shelf = Shelf(1 << 20, tmp_path)
    fisher = Fisher(
        source.architecture, source.tensors, batches(count), shelf, torch.device("cpu"), threads, SEED
    )
    return fisher.squares(lambda done, total, what: None)


def watch(
    outputs: dict[str, torch.Tensor], name: str, _module: Any, _inputs: Any, value: torch.Tensor
) -> None:
    value.retain_grad()
    outputs[name] = value


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_they_are_those_of_the_whole_network(family: str, tiny_checkpoint: Any, tmp_path: Path) -> None:
    import transformers

    directory = tiny_checkpoint(family)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    names = {
        linear.name.removesuffix(".weight") for linear in Checkpoint.open(directory).architecture.linears
    }
    expected: dict[str, torch.Tensor] = {}
    tokens = 0
    for number, batch in enumerate(batches()):
        outputs: dict[str, torch.Tensor] = {}
        hooks = []
        for name, module in model.named_modules():
            if name in names:
                hooks.append(module.register_forward_hook(partial(watch, outputs, name)))
        logits = model(batch.ids).logits.flatten(0, 1)
        drawn = torch.multinomial(
            logits.detach().softmax(-1), 1, generator=torch.Generator().manual_seed(SEED + number)
        )[:, 0]
        torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
        for hook in hooks:
            hook.remove()
        for name, value in outputs.items():
            grad = value.grad
            assert grad is not None
            found = grad.reshape(-1, grad.shape[-1]).square().sum(0)
            expected[name] = expected.get(name, torch.zeros_like(found)) + found
        tokens += batch.ids.numel()
    found = squares(directory, tmp_path)
    assert {name.removesuffix(".weight") for name in found} == names
    for name, value in expected.items():
        torch.testing.assert_close(found[f"{name}.weight"], value / tokens, rtol=2e-3, atol=1e-8)


@pytest.mark.parametrize("family", ["mixtral", "t5", "bart", "bert", "opt"])
def test_every_map_of_other_kinds_has_them_and_threads_change_no_bit(
    family: str, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    one, many = (squares(tiny_checkpoint(family), tmp_path, threads) for threads in (1, 3))
    linears = Checkpoint.open(tiny_checkpoint(family)).architecture.linears
    assert {linear.name for linear in linears} == one.keys()
    for linear in linears:
        assert one[linear.name].shape == (linear.out_features,)
        assert one[linear.name].sum() > 0
        assert torch.equal(one[linear.name], many[linear.name])
