"""PyTorch that computes with rounded activations: what an int8 graph computes, simulated in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Mapping

Change = Callable[[str, torch.Tensor], torch.Tensor]


class InputsOf(TorchFunctionMode):
    """Lets a function see and replace what is multiplied by a model's matrices, by the parameter's name.

    Experts that are slices of one parameter are found as well, by where in memory they are.
    """

    def __init__(self, model: torch.nn.Module, change: Change) -> None:
        super().__init__()
        self.change = change
        self.spans = [
            (weight.data_ptr(), weight.data_ptr() + weight.nbytes, name)
            for name, weight in model.named_parameters()
            if weight.ndim > 1
        ]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = {torch.nn.functional.linear: (0, 1), torch.addmm: (1, 2)}.get(function)
        if place is not None:
            value, weight = (args[index] for index in place)
            for start, stop, name in self.spans:
                if start <= weight.data_ptr() < stop:
                    number = (weight.data_ptr() - start) // weight.nbytes
                    args = list(args)
                    args[place[0]] = self.change(f"{name}[{number}]", value)
        return function(*args, **(kwargs or {}))


def on_grid(value: torch.Tensor, grid: Mapping[str, Any]) -> torch.Tensor:
    """What codes of 8 bits on a grid stand for."""
    scale = torch.tensor(grid["scale"], dtype=torch.float32)
    codes = torch.clamp(torch.round(value / scale) + grid["zero"], 0, 255)
    return (codes - grid["zero"]) * scale
