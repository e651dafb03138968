"""A checkpoint as a network that trains, and back: its own names, dtypes and layout."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...artifacts.errors import InputError
from ...artifacts.tensors import SafetensorsWriter
from ..model.checkpoint import WEIGHTS_FILE, Checkpoint
from ..model.dtypes import NAMES, main_dtype
from ..model.torch_network import load_module

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from ...artifacts.outbox import Outbox

# From this share of exact zeros on, a linear weight counts as pruned; others have next to none.
PRUNED_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Network:
    """A network in float32 and the checkpoint that it is of. module: the model of transformers."""

    source: Checkpoint
    module: Any

    @staticmethod
    def load(source: Checkpoint, *, dropout: bool = False, attention: str | None = None) -> Network:
        """A checkpoint's network. dropout, attention: see `stages/model/torch_network.py`.

        Raises IntakeError where transformers does not load it, and InputError where what it loads cannot be
        written back under the checkpoint's names.
        """
        model = source.architecture
        module = load_module(source.directory, model.task, attention=attention, dropout=dropout)
        network = Network(source, module)
        found = {name: tuple(value.shape) for name, value in network.tensors().items()}
        for name in source.tensors.names():
            info = source.tensors.info(name)
            if info.dtype in NAMES and name in found and found[name] != tuple(info.shape):
                raise InputError(f"{name} is loaded as {found[name]}, not {tuple(info.shape)}")
        missing = [linear.name for linear in (*model.linears, *model.gates) if linear.name not in found]
        if missing:
            raise InputError(
                f"transformers does not give {missing[0]} back under its name", where=str(source.directory)
            )
        return network

    @property
    def stored(self) -> dict[str, torch.dtype]:
        """The dtype that each parameter is written in; of those that are stored in pieces, the main one."""
        tensors = self.source.tensors
        main = main_dtype([tensors.info(name) for name in tensors.names()])
        names = {name: NAMES.get(tensors.info(name).dtype, main) for name in tensors.names()}
        return {name: getattr(torch, names.get(name, main)) for name, _ in self.module.named_parameters()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by the checkpoint's names, float32; those that are tied by each of their names."""
        from transformers.core_model_loading import revert_weight_conversion

        found: dict[str, torch.Tensor] = revert_weight_conversion(self.module, dict(self.module.state_dict()))
        return found

    def pruned(self) -> dict[str, torch.nn.Parameter]:
        """The parameters of maps with a share of exact zeros from 10 % on, by name.

        Tables of embeddings do not count: rows of tokens that never occurred may be zero.
        """
        modules = self.module.modules()
        tables = {id(each.weight) for each in modules if isinstance(each, torch.nn.Embedding)}
        return {
            name: weight
            for name, weight in self.module.named_parameters()
            if weight.ndim > 1 and id(weight) not in tables and _zeros(weight) >= PRUNED_SHARE
        }

    def write(self, output: Outbox) -> dict[str, float]:
        """Writes the checkpoint with the network's weights; of every weight, how far it moved, as a share.

        A tensor that is as it was keeps its bytes.
        """
        self.source.copy_sidecars(output)
        with output.create(WEIGHTS_FILE) as stream:
            return self._write(stream)

    def write_directory(self, directory: Path) -> None:
        """The same into a plain directory."""
        directory.mkdir(parents=True, exist_ok=True)
        for path in self.source.sidecars():
            shutil.copyfile(path, directory / path.name)
        with (directory / WEIGHTS_FILE).open("wb") as stream:
            self._write(stream)

    def _write(self, stream: Any) -> dict[str, float]:
        tensors, found, moved = self.source.tensors, self.tensors(), dict[str, float]()
        names = tensors.names()
        with SafetensorsWriter(stream, [tensors.info(name) for name in names]) as writer:
            for name in names:
                change, value = self._changed(name, found)
                writer.write(name, tensors.raw(name) if value is None else value)
                if value is not None:
                    moved[name] = change
                tensors.release(name)
        return moved

    def _changed(
        self, name: str, found: Mapping[str, torch.Tensor]
    ) -> tuple[float, npt.NDArray[np.uint8] | None]:
        """How far a tensor moved, of its own norm, and its bytes; None where it did not."""
        info = self.source.tensors.info(name)
        if info.dtype not in NAMES or name not in found:
            return 0.0, None
        before, value = (
            torch.from_numpy(self.source.tensors.float32(name)),
            found[name].detach().cpu().float(),
        )
        stored = value.to(getattr(torch, NAMES[info.dtype])).contiguous()
        if torch.equal(before, stored.float()):
            return 0.0, None
        change = float((stored.float() - before).norm() / before.norm().clamp_min(1e-30))
        raw: npt.NDArray[np.uint8] = stored.reshape(-1).view(torch.uint8).numpy()
        return change, raw


def _zeros(weight: torch.Tensor) -> float:
    return 1 - int(weight.detach().count_nonzero()) / weight.numel()
