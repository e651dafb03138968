"""Tensors of a block: rows of a table come in alone, replaced matrices stay until the block is let go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from ingot.artifacts.tensors import TensorSource

EMBEDDING = "model.embed_tokens.weight"


class Counting:
    """A source that adds up the bytes it gives."""

    def __init__(self, source: TensorSource) -> None:
        self.source = source
        self.given_bytes = 0

    def float32(self, name: str, rows: slice | None = None) -> Any:
        found = self.source.float32(name, rows)
        self.given_bytes += found.nbytes
        return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_a_table_only_the_rows_that_are_asked_for_are_read(dtype: str, tiny_checkpoint: Any) -> None:
    import torch
    from ingot.stages.model.blocks.tensors import BlockTensors
    from ingot.stages.model.checkpoint import Checkpoint

    source = Checkpoint.open(tiny_checkpoint("llama", dtype)).tensors
    counting = Counting(source)
    tensors = BlockTensors(counting, torch.device("cpu"), torch.float32)  # type: ignore[arg-type]
    ids = torch.tensor([[300, 2, 300], [7, 2, 7]])
    table = source.float32(EMBEDDING)
    assert np.array_equal(tensors.rows(EMBEDDING, ids).numpy(), table[ids.numpy()])
    # Three different rows, from the first to almost the last.
    assert counting.given_bytes == 3 * table.shape[1] * 4
