"""Copies as a merge reads and writes, all inputs side by side: what `bench_merge.py` holds merging against.

    python tests/bench/copy_bytes.py DESTINATION CHECKPOINT ...

Nothing is imported that takes time, since its process is measured whole.
"""

from __future__ import annotations

import sys
from pathlib import Path

BLOCK_BYTES = 8 << 20

if __name__ == "__main__":
    destination, *checkpoints = map(Path, sys.argv[1:])
    streams = [(each / "model.safetensors").open("rb", buffering=0) for each in checkpoints]
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with destination.open("wb", buffering=0) as out:
        while count := streams[0].readinto(buffer):
            out.write(buffer[:count])
            for stream in streams[1:]:
                stream.readinto(buffer)
