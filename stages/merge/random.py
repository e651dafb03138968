"""Random numbers by place: the draw of an element follows from (seed, tensor, model, index) and nothing else.

The generator is Philox 4x64-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC
2011), whose words are those of a counter: a block begins where it likes, in whatever thread.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# A counter gives four words of 64 bits.
WORDS = 4


def key(seed: int, tensor: str, model: int) -> int:
    """The generator's key, 128 bits, of a seed, an output tensor and an input's number."""
    named = json.dumps([seed, tensor, model]).encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:16], "little")


def words(key: int, start: int, count: int) -> npt.NDArray[np.uint64]:
    """The words [start, start + count) of the generator with a key."""
    import numpy as np

    skipped = start % WORDS
    generator = np.random.Philox(key=key).advance(start // WORDS)
    drawn: npt.NDArray[np.uint64] = generator.random_raw(skipped + count)
    return drawn[skipped:]


def uniform(key: int, start: int, stop: int) -> npt.NDArray[np.float32]:
    """A float32 in [0, 1) for each of the elements [start, stop), a multiple of 2^-24 made of half a word."""
    import numpy as np

    first = start // 2
    halves = words(key, first, -(-stop // 2) - first).view("<u4")[start % 2 :][: stop - start]
    return (halves >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
