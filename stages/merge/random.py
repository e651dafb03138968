"""Random numbers by place: what an element draws follows from (seed, tensor, input, index) and nothing else.

The generator is Philox 4x64-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC
2011): its words are those of a counter, so a block begins where it likes, in whatever thread.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Words of 64 bits that a counter gives.
WORDS = 4
COUNTERS = 1 << 256
# Elements whose undecided draws are settled by one run of words.
SETTLED = 1 << 16


def parts(probability: float) -> tuple[int, int, int]:
    """How many bits an element draws, as many of the probability's binary digits, and the 64 digits behind.

    1, 2 or 4 bits where they say all of it, and otherwise 8.
    """
    for width in (1, 2, 4):
        whole, rest = divmod(probability * 2.0**width, 1)
        if not rest:
            return width, int(whole), 0
    return 8, *divmod(int(probability * 2.0**72), 1 << 64)


@dataclass(frozen=True)
class Stream:
    """The generator with a key of 128 bits."""

    key: int

    @classmethod
    def of(cls, seed: int, tensor: str, number: int) -> Self:
        """The stream of a seed, an output tensor and an input's number."""
        named = json.dumps([seed, tensor, number]).encode()
        return cls(int.from_bytes(hashlib.sha256(named).digest()[:16], "little"))

    def words(self, start: int, count: int) -> npt.NDArray[np.uint64]:
        """The words [start, start + count): word i is the i % 4-th of counter i // 4."""
        import numpy as np

        # numpy counts up before it draws.
        generator = np.random.Philox(key=self.key, counter=(start // WORDS - 1) % COUNTERS)
        skipped = start % WORDS
        drawn: npt.NDArray[np.uint64] = generator.random_raw(skipped + count)
        return drawn[skipped:]

    def uniform(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """What elements [start, stop) draw: float32 [stop - start] in [0, 1), multiples of 2^-24."""
        import numpy as np

        first = start // 2
        halves = self.words(first, -(-stop // 2) - first).view("<u4")[start % 2 :][: stop - start]
        return (halves >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)

    def keeps(self, start: int, stop: int, probability: float) -> npt.NDArray[np.bool_]:
        """Which of the elements [start, stop) a draw of that probability keeps, bool [stop - start].

        An element draws a byte, or fewer bits where they decide, so that a word serves eight or more. A byte
        that equals the probability's first is settled by a word of another stream, those of every 65536
        elements in their order, so the probability is exact to 2^-64.
        """
        import numpy as np

        width, whole, rest = parts(probability)
        begin = start // SETTLED * SETTLED
        first, last = begin * width // 64, -(-stop * width // 64)
        drawn = self.words(first, last - first).astype("<u8", copy=False).view(np.uint8)
        if width < 8:
            shifts = np.arange(0, 8, width, dtype=np.uint8)
            drawn = ((drawn[:, None] >> shifts) & np.uint8((1 << width) - 1)).reshape(-1)
        drawn = drawn[: stop - begin]
        kept: npt.NDArray[np.bool_] = drawn < whole
        if rest:
            settling = Stream(self.key ^ 1)
            for chunk in range(0, len(drawn), SETTLED):
                undecided = np.flatnonzero(drawn[chunk : chunk + SETTLED] == whole) + chunk
                kept[undecided] = settling.words(begin + chunk, len(undecided)) < np.uint64(rest)
        return kept[start - begin :]
