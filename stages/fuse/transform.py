"""A tensor in the rotated basis: blocks of rows, then blocks of columns, computed in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...artifacts.tensors import TensorSource
from ..model.families import Architecture
from .hadamard import Rotation

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    import numpy.typing as npt

    from ..model.fold import Rows
    from .residual import Change

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]
    Block = Callable[[Doubles], Doubles]

# A block and the steps of its rotation stay within some megabytes a thread.
BLOCK_ELEMENTS = 1 << 18


@dataclass(frozen=True, eq=False)
class Transform:
    """Rotations of the residual stream and of each head's values. offset: what stored gains are short of."""

    tensors: TensorSource
    model: Architecture
    stream: Rotation
    heads: Rotation

    def apply(self, name: str, change: Change, pool: ThreadPoolExecutor) -> Floats:
        """The tensor ``name`` as it is stored, float32, after ``change``; see :class:`.residual.Change`."""
        value = self.tensors.float32(name)
        if change.unit:
            return np.full_like(value, 1.0 - self._offset)
        if value.ndim == 1:
            return self._columns(value[:, None], change)[:, 0].astype(np.float32)
        if change.stored_in_out:
            value = np.ascontiguousarray(value.T)
        gain = None if change.gain is None else self.tensors.float32(change.gain) + np.float64(self._offset)

        def rows(block: Doubles) -> Doubles:
            block = block if gain is None else block * gain
            block = self.stream.apply(block) if change.reads else block
            return self._by_head(block) if change.head_columns else block

        if change.reads or change.head_columns:
            value = _in_blocks(value, rows, pool)
        if change.writes or change.head_rows:
            turned = _in_blocks(
                np.ascontiguousarray(value.T), lambda block: self._columns(block.T, change).T, pool
            )
            value = turned.T
        return np.ascontiguousarray(value.T if change.stored_in_out else value)

    @property
    def _offset(self) -> float:
        return 1.0 if self.model.norm == "rms_above_one" else 0.0

    def _by_head(self, block: Doubles) -> Doubles:
        """[rows, heads · head_dim], each head's columns rotated."""
        return self.heads.apply(block.reshape(len(block), -1, self.model.head_dim)).reshape(block.shape)

    def _columns(self, block: Doubles | Floats, change: Change) -> Doubles:
        """[out, any]: the columns, rotated as what they add to is."""
        found = block.astype(np.float64)
        if change.head_rows is not None:
            places = _places(change.head_rows, self.model)
            found[places] = self._by_head(found[places].T).T
        return self.stream.apply(found.T).T if change.writes else found


def _places(rows: Rows, model: Architecture) -> npt.NDArray[np.int64]:
    """The output rows of values, head by head."""
    index = np.arange(model.kv_heads * model.head_dim)
    return rows.first + index // rows.block * rows.stride + index % rows.block


def _in_blocks(value: Floats, work: Block, pool: ThreadPoolExecutor) -> Floats:
    """float32 [rows, width] → the same size, a block of rows at a time."""
    size = max(1, BLOCK_ELEMENTS // value.shape[1])
    blocks = [slice(start, start + size) for start in range(0, len(value), size)]
    found = np.empty_like(value)

    def one(block: slice) -> None:
        found[block] = work(value[block].astype(np.float64))

    list(pool.map(one, blocks))
    return found


def narrowed(value: Floats) -> npt.NDArray[np.uint16]:
    """float32, all finite → the bits of the nearest bfloat16, of two as near the even one."""
    bits = value.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        np.uint16
    )
