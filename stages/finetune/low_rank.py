"""Low-rank changes to weights that train in their place (LoRA, arXiv:2106.09685): W + alpha / rank · B A."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import parametrize

from ...artifacts.errors import RecipeError
from ...artifacts.tensors import SafetensorsWriter, TensorShape
from ..model.adapters import CONFIG_FILE, WEIGHTS_FILE, AdapterConfig, config_json
from ..model.named import matching

if TYPE_CHECKING:
    from ...artifacts.outbox import Outbox

WEIGHT = "weight"
# What PEFT writes before the names of modules.
PREFIX = "base_model.model."
FOLDER = "adapter"
# What PEFT calls tasks.
TASKS = {"causal-lm": "CAUSAL_LM", "seq2seq-lm": "SEQ_2_SEQ_LM"}


class LowRank(torch.nn.Module):
    """What a weight [out, in] becomes. down: A [rank, in], random at first.  up: B [out, rank], zero then.

    turned: the weight is stored as [in, out].  kept: where it may be other than zero; None for everywhere.
    stored: the dtype that it is written in, which it is rounded to while nothing trains.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        rank: int,
        scale: float,
        stored: torch.dtype,
        *,
        turned: bool,
        kept: torch.Tensor | None,
    ) -> None:
        super().__init__()
        out_features, in_features = weight.T.shape if turned else weight.shape
        self.down = torch.nn.Parameter(torch.empty(rank, in_features))
        self.up = torch.nn.Parameter(torch.zeros(out_features, rank))
        torch.nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale, self._stored, self._turned = scale, stored, turned
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight, in the shape that is stored."""
        change = self.scale * (self.up @ self.down)
        changed = weight + (change.T if self._turned else change)
        if isinstance(self.kept, torch.Tensor):
            changed = changed * self.kept
        return changed if self.training else changed.to(self._stored).to(weight.dtype)


@dataclass(frozen=True)
class Adapted:
    """A network whose weights were given low-rank changes. changed: by module."""

    network: Any
    changed: Mapping[str, LowRank]
    turned: bool

    def fold(self) -> None:
        """Makes the changes part of the weights; the network is then one of its own kind again."""
        self.network.eval()
        for name in self.changed:
            parametrize.remove_parametrizations(self.network.get_submodule(name), WEIGHT)

    def write(self, output: Outbox, rank: int, alpha: float, task: str) -> None:
        """Writes the changes to a network of a task into a folder of the payload as PEFT does, float32."""
        config = AdapterConfig(
            rank=rank, alpha=alpha, fan_in_fan_out=self.turned, targets=tuple(self.changed)
        )
        output.write_json(f"{FOLDER}/{CONFIG_FILE}", config_json(config, TASKS[task]))
        tensors = {}
        for name, change in self.changed.items():
            tensors[f"{PREFIX}{name}.lora_A.weight"] = change.down
            tensors[f"{PREFIX}{name}.lora_B.weight"] = change.up
        layout = [TensorShape(name, "F32", tuple(value.shape)) for name, value in sorted(tensors.items())]
        with output.create(f"{FOLDER}/{WEIGHTS_FILE}") as stream, SafetensorsWriter(stream, layout) as writer:
            for shape in layout:
                writer.write(shape.name, tensors[shape.name].detach().cpu().contiguous().numpy())


def adapt(
    network: Any,
    rank: int,
    alpha: float,
    only: tuple[str, ...],
    ignore: tuple[str, ...],
    stored: Mapping[str, torch.dtype],
    pruned: Mapping[str, torch.Tensor],
) -> Adapted:
    """Lets low-rank changes of a network's maps train, and nothing else.

    only, ignore: shell patterns of weights' names; all maps of the layers by default. pruned: weights whose
    zeros stay. Raises RecipeError for patterns that match nothing, and where nothing is left.
    """
    maps = {f"{name}.{WEIGHT}": module for name, module in network.named_modules() if _is_map(module)}
    head = network.get_output_embeddings()
    chosen = [name for name, module in maps.items() if module is not head]
    if only:
        named = {name for pattern in only for name in matching(maps, pattern, "finetune.only")}
        chosen = [name for name in maps if name in named]
    for pattern in ignore:
        gone = matching(chosen, pattern, "finetune.ignore")
        chosen = [name for name in chosen if name not in gone]
    if not chosen:
        raise RecipeError(
            "no weight would be changed", fix="ignore less, or fine-tune all with finetune.full"
        )
    network.requires_grad_(False)
    changed, turned = {}, False
    for name in chosen:
        module = maps[name]
        turned = not isinstance(module, torch.nn.Linear)
        kept = (module.weight.detach() != 0) if name in pruned else None
        change = LowRank(
            module.weight, rank, alpha / rank, stored.get(name, torch.float32), turned=turned, kept=kept
        )
        parametrize.register_parametrization(module, WEIGHT, change)
        changed[name.removesuffix(f".{WEIGHT}")] = change
    return Adapted(network, changed, turned)


def _is_map(module: torch.nn.Module) -> bool:
    """Whether a module multiplies by a matrix: torch's own, or GPT-2's, which is stored turned."""
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
