"""Finds NaN and infinite weights, and tied heads that are not their embedding, a few megabytes at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError
from ...artifacts.tensor_header import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ...artifacts.tensors import TensorInfo

BLOCK_BYTES = 4 << 20
# Unsigned type and exponent bits of each dtype: all of them are set for NaN and infinity alone (IEEE 754).
EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}


def check_finite(info: TensorInfo, where: Path) -> None:
    """Raises IntakeError for a tensor with a NaN or an infinity, with how many there are; where: its file."""
    count = count_nonfinite(info)
    if count:
        raise IntakeError(
            f"{info.name} holds {count:,} NaN or infinite values among {info.count:,}",
            where=str(where),
            fix="the checkpoint is broken: take one from before its training diverged",
        )


def count_nonfinite(info: TensorInfo) -> int:
    """How many elements of a floating-point tensor are NaN or infinite."""
    import numpy as np

    unsigned, exponent = EXPONENTS[info.dtype]
    mask = np.array(exponent, unsigned)
    found = 0
    for block in blocks(info):
        bits = np.frombuffer(block, unsigned) & mask
        # One pass that is nearly always the last: the mask itself is the largest value that can be left.
        if bits.max() == mask:
            found += int(np.count_nonzero(bits == mask))
    return found


def check_tied(embedding: TensorInfo, copy: TensorInfo, where: Path) -> None:
    """Raises IntakeError unless a stored tensor that the config calls tied is the embedding, bit for bit."""
    import numpy as np

    same = (embedding.dtype, embedding.shape) == (copy.dtype, copy.shape) and all(
        np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))
        for one, other in zip(blocks(embedding), blocks(copy), strict=True)
    )
    if not same:
        raise IntakeError(
            f"config.json ties {copy.name} to the embedding, but it is not {embedding.name}",
            where=str(where),
            fix=f"set tie_word_embeddings to false in config.json, or remove {copy.name}",
        )


def blocks(info: TensorInfo) -> Iterator[memoryview]:
    """A tensor's stored bytes, 4 MiB at a time; each block is overwritten by the next."""
    buffer = memoryview(bytearray(min(BLOCK_BYTES, info.nbytes)))
    with open_regular(info.file) as stream:
        stream.seek(info.start)
        remaining = info.nbytes
        while remaining:
            block = buffer[: min(remaining, len(buffer))]
            filled = 0
            while filled < len(block):
                count = stream.readinto(block[filled:])  # type: ignore[attr-defined]
                if not count:
                    raise IntakeError(f"the file ended within {info.name}", where=str(info.file))
                filled += count
            remaining -= len(block)
            yield block
