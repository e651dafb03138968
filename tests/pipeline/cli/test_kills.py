"""Whole runs killed at random moments and resumed, as tests/bench/bench_kills.py does it at length."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import bench_kills

if TYPE_CHECKING:
    from .conftest import Workplace

# Cheap nodes that are made anew; a run of them takes longer than the latest of these moments.
NODES = ("load", "quantize@cpu-int8", "export@cpu-int8", "quantize@cpu-int4", "export@cpu-int4")
DRAWN = random.Random(7)
MOMENTS = [DRAWN.uniform(0.2, 2.5) for _ in range(3)]


@pytest.fixture
def place(workplace: Workplace) -> Any:
    """The tiny Llama's build, NODES forgotten, as the benchmark sees it."""
    workplace.forget(*NODES)
    (workplace.directory / "tmp").mkdir()
    return bench_kills().Place(workplace.directory, "st")


@pytest.mark.parametrize(("moment", "whom"), [*zip(MOMENTS, ("all", "driver", "all"), strict=True)])
def test_a_run_killed_at_a_random_moment_resumes_to_the_same_and_leaves_nothing_wrong(
    place: Any, built: Any, moment: float, whom: str
) -> None:
    bench = bench_kills()
    expected = bench.digests(bench.Place(built("llama")[0].directory, "st"))
    assert len(expected) > 20
    kill = bench.carry_out(place, [moment], whom, expected)
    assert kill.struck
    assert kill.differing == ()
    assert kill.corrupt == 0
    assert kill.orphans == ()


def test_what_is_left_over_is_seen_wherever_it_lies(place: Any) -> None:
    """The measure itself: each of these files is one that nothing accounts for."""
    bench = bench_kills()
    place.ingot("gc")
    assert bench.orphans(place) == []
    digest = "0" * 64
    left = [
        f"st/trees/{digest}/payload/model.onnx", f"st/trees/.{digest}/x", f"st/stats/trees/{digest}.json",
        f"st/actions/{digest}.json", "st/actions/.half", "st/jobs/k/scratch/layer",
        "st/trash/t/x", "st/locks/key-k.lock", "st/.half", "st/runs/0/report/.report.html.1", "tmp/torch_1/x",
        "out/.cpu-int8.0123456789abcdef.new/model.onnx", "st/unheard-of",
    ]  # fmt: skip
    for name in left:
        path = place.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"123")
    assert sorted(bench.orphans(place)) == sorted((name, 3) for name in left)
