"""Measures publishing into the store against a plain copy of the same bytes, both until the disk has them.

    python tests/bench/bench_publish.py [--mebibytes 1024] [--repeats 9] [--folder DIR]

The plain side is shutil.copyfile and fsync. Two ways in are timed against it: `copy_in` of the same files,
and `create` fed the same number of bytes in blocks of 4 MiB. Sides take turns within a repeat. Disturbance
only ever adds time, so each side counts with its best repeat, and the ratio of those is compared with the bar
(the median of the paired ratios stands beside it); one above it gives exit code 1. The store hashes on a
second core, so what other processes took of the machine is printed too: with much of it the ratio is theirs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from ingot.artifacts.files import remove_tree
from ingot.artifacts.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    Side = Callable[[list[Path], Path], float]

BAR = 1.3
MEBIBYTE = 1 << 20
BLOCK_BYTES = 4 * MEBIBYTE
SHARES = (
    0.75,
    0.125,
    0.0625,
    0.0625,
)  # one large file and a few smaller ones, as shards and external data are


def main() -> int:
    """Prints the figures and returns 1 when publishing costs more than the bar allows."""
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        sources = _make_sources(folder / "sources", options.mebibytes)
        ways = {"copy_in": _publish_copies, "create": _publish_stream}
        size = sum(path.stat().st_size for path in sources)
        print(f"{size / MEBIBYTE:.0f} MiB in {len(sources)} files, best of {options.repeats} repeats")
        columns = ("plain s", "publish s", "ratio", "median ratio", "plain CPU s", "publish CPU s")
        print("".join((f"{'way in':8}", *(f"{column:>14}" for column in columns), f"{'MB/s':>8}")))
        began, busy = time.process_time(), _busy_seconds()
        started = time.perf_counter()
        ratios = [_compare(label, way, sources, folder, options.repeats) for label, way in ways.items()]
        others = _busy_seconds() - busy - (time.process_time() - began)
        share = others / (time.perf_counter() - started) / (os.cpu_count() or 1)
    worst = max(ratios)
    print(f"other processes took {max(0.0, share):.0%} of {os.cpu_count()} cores meanwhile")
    print(f"bar: {BAR}  worst: {worst:.2f}  {'ok' if worst <= BAR else 'TOO SLOW'}")
    return int(worst > BAR)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; default: the temporary directory"
    )
    return parser.parse_args()


def _busy_seconds() -> float:
    """The CPU seconds of the whole machine that were not idle, so far."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _make_sources(folder: Path, mebibytes: int) -> list[Path]:
    folder.mkdir()
    block = os.urandom(BLOCK_BYTES)
    paths = []
    for number, share in enumerate(SHARES):
        path = folder / f"part-{number}.bin"
        with path.open("wb") as stream:
            for _ in range(max(1, round(mebibytes * share * MEBIBYTE / BLOCK_BYTES))):
                stream.write(block)
        paths.append(path)
    return paths


def _compare(label: str, publish: Side, sources: list[Path], folder: Path, repeats: int) -> float:
    rows = []
    for number in range(repeats):
        seconds, cpu_seconds = {}, {}
        for side in (_plain_copy, publish) if number % 2 == 0 else (publish, _plain_copy):
            began = time.process_time()
            seconds[side] = side(sources, folder)
            cpu_seconds[side] = time.process_time() - began
        rows.append((seconds[_plain_copy], seconds[publish], cpu_seconds[_plain_copy], cpu_seconds[publish]))
    plain, ours, plain_cpu, cpu = (min(column) for column in zip(*rows, strict=True))
    median = statistics.median(row[1] / row[0] for row in rows)
    rate = sum(path.stat().st_size for path in sources) / ours / 1e6
    figures = (plain, ours, ours / plain, median, plain_cpu, cpu)
    print("".join((f"{label:8}", *(f"{figure:>14.2f}" for figure in figures), f"{rate:>8.0f}")))
    return ours / plain


def _plain_copy(sources: list[Path], folder: Path) -> float:
    target = folder / "plain"
    target.mkdir()
    began = time.perf_counter()
    for source in sources:
        shutil.copyfile(source, target / source.name)
        with (target / source.name).open("rb+") as stream:
            os.fsync(stream.fileno())
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return seconds


def _publish_copies(sources: list[Path], folder: Path) -> float:
    store = Store.open(folder / "store")
    began = time.perf_counter()
    with store.outbox() as outbox:
        for source in sources:
            outbox.copy_in(source, source.name)
        outbox.publish("checkpoint", {})
    seconds = time.perf_counter() - began
    remove_tree(store.root)
    return seconds


def _publish_stream(sources: list[Path], folder: Path) -> float:
    block = os.urandom(BLOCK_BYTES)
    store = Store.open(folder / "store")
    began = time.perf_counter()
    with store.outbox() as outbox:
        for source in sources:
            with outbox.create(source.name) as stream:
                for _ in range(source.stat().st_size // BLOCK_BYTES):
                    stream.write(block)
        outbox.publish("checkpoint", {})
    seconds = time.perf_counter() - began
    remove_tree(store.root)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
