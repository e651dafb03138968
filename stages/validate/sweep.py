"""A sweep: how latency and throughput change with the batch and the length of the sequence.

Every model has one process for the whole sweep. In each cell all of them are warmed up, then take turns at a
prefill of [batch, sequence] and, where they decode, at a few steps after it; the first turn alternates, as in
`validate.cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .cost_side import SideProcess

# Steps after each prefill: enough for a median, and few beside what the prefill takes.
STEPS = 8


@dataclass(frozen=True)
class Cell:
    """One point of a sweep: so many sequences at once, of so many tokens each."""

    batch: int
    sequence: int


@dataclass(frozen=True)
class Sweep:
    """What a sweep found. times: cell by cell, model → its times in ms, `prefill_ms` and `decode_ms` of one
    step (empty for encoders).  left_out: cells that a model's context has no room for.
    """

    times: Mapping[Cell, Mapping[str, Mapping[str, list[float]]]]
    left_out: tuple[Cell, ...]

    def to_json(self) -> list[dict[str, object]]:
        """The cells as `measurements.json` and `ingot bench --json` state them: quantiles by model."""
        from .cost import quantiles

        return [
            {
                "batch": cell.batch,
                "sequence": cell.sequence,
                "sides": {
                    side: {name: quantiles(samples) for name, samples in found.items() if samples}
                    for side, found in sides.items()
                },
            }
            for cell, sides in self.times.items()
        ]


def cells(batches: Sequence[int], sequences: Sequence[int]) -> tuple[Cell, ...]:
    """Every batch with every sequence, ascending, each once."""
    return tuple(
        Cell(batch, sequence) for batch in sorted(set(batches)) for sequence in sorted(set(sequences))
    )


def measure_sweep(
    directories: Mapping[str, str],
    wanted: Sequence[Cell],
    *,
    passes: int,
    threads: int,
    device: str = "cpu",
    progress: Callable[[int, int], None],
) -> Sweep:
    """Measures every cell that fits into every model's context, ``passes`` times each.

    directories: model → where it lies.  device: as for :func:`open_session`.  progress: is told of cells.
    Raises InputError when no cell fits, StageError when a measuring process dies, and the errors of runtimes.
    """
    from .cost_side import SideProcess

    opened: dict[str, SideProcess] = {}
    times: dict[Cell, dict[str, dict[str, list[float]]]] = {}
    try:
        for name, directory in directories.items():
            opened[name] = SideProcess(directory, threads, device)
        about = {name: process.ask("load") for name, process in opened.items()}
        room = {name: longest(str(a["task"]), int(str(a["context"]))) for name, a in about.items()}
        decoding = {name for name, a in about.items() if a["task"] != "encoder"}
        fitting = [cell for cell in wanted if cell.sequence <= min(room.values())]
        if not fitting:
            raise InputError(
                f"no sequence of the sweep fits: the longest is {min(room.values())} tokens",
                fix=f"sweep sequences of at most {min(room.values())}",
            )
        for number, cell in enumerate(fitting):
            progress(number, len(fitting))
            found: dict[str, dict[str, list[float]]] = {
                name: {"prefill_ms": [], "decode_ms": []} for name in opened
            }
            for turn in range(passes + 1):
                order = list(opened) if turn % 2 else list(opened)[::-1]
                for name in order:
                    one = _pass(opened[name], cell, is_decoding=name in decoding)
                    # The first turn allocates for this shape; what follows is what a user meets.
                    for metric, samples in one.items() if turn else ():
                        found[name][metric] += samples
            times[cell] = found
        progress(len(fitting), len(fitting))
    finally:
        for process in opened.values():
            process.close()
    return Sweep(times, tuple(cell for cell in wanted if cell not in times))


def longest(task: str, context: int) -> int:
    """The longest sequence of a sweep in a model's context: decoding needs room for its steps, but behind a
    source, which is what an encoder-decoder's sequences are.
    """
    return context - STEPS if task == "causal-lm" else context


def _pass(process: SideProcess, cell: Cell, *, is_decoding: bool) -> dict[str, list[float]]:
    found = {"prefill_ms": process.ask_ms("prefill", cell.sequence, cell.batch)}
    if is_decoding:
        found["decode_ms"] = process.ask_ms("decode", STEPS, cell.batch)
    return found
