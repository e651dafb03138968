"""Remembered verdicts: the same as evaluated ones, and never more than a memory."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from ingot.pipeline import verdicts
from ingot.pipeline.gate import evaluate
from ingot.pipeline.verdicts import judge

if TYPE_CHECKING:
    from types import ModuleType

    from ingot.artifacts.store import Store


def test_a_verdict_is_remembered_as_it_was(
    store: Store, samples: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = samples.bounds(perplexity={"max_increase": "2%"}, load_ms={"max": "1s"})
    quality, cost = samples.quality_of(samples.windows()), samples.cost()
    first = judge(store, bounds, quality, cost)
    assert first == evaluate(bounds, quality, cost)
    evaluated: list[object] = []
    monkeypatch.setattr(verdicts, "_remember", lambda *given: evaluated.append(given))
    assert judge(store, bounds, quality, cost) == first
    assert evaluated == []


def test_other_measurements_and_other_limits_are_judged_anew(store: Store, samples: ModuleType) -> None:
    quality = samples.quality_of(samples.windows())
    strict, lax = (samples.bounds(perplexity={"max_increase": limit}) for limit in ("0%", "9%"))
    assert judge(store, lax, quality, None).status == "pass"
    assert judge(store, strict, quality, None).status != "pass"
    assert judge(store, lax, samples.quality_of(samples.windows(change=0.5)), None).status == "fail"


@pytest.mark.parametrize("text", ["", "{}", '{"status": 1}', "[]"])
def test_a_torn_memory_is_no_memory(text: str, store: Store, samples: ModuleType) -> None:
    bounds, quality = samples.bounds(perplexity={"max_increase": "2%"}), samples.quality_of(samples.windows())
    first = judge(store, bounds, quality, None)
    (path,) = (store.root / "stats" / "verdicts").iterdir()
    path.write_text(text)
    assert judge(store, bounds, quality, None) == first
    assert path.read_text() != text


def test_a_memory_with_a_flipped_digit_is_no_memory(store: Store, samples: ModuleType) -> None:
    bounds, quality = samples.bounds(perplexity={"max_increase": "2%"}), samples.quality_of(samples.windows())
    first = judge(store, bounds, quality, None)
    (path,) = (store.root / "stats" / "verdicts").iterdir()
    text = path.read_text()
    assert '"limit": 0.02' in text
    path.write_text(text.replace('"limit": 0.02', '"limit": 0.03'))
    assert judge(store, bounds, quality, None) == first
    assert path.read_text() == text


def test_judging_again_does_not_import_numpy(store: Store, samples: ModuleType, tmp_path: object) -> None:
    script = (
        "import sys, json, pathlib\n"
        "from ingot.artifacts.store import Store\n"
        "from ingot.pipeline import measurements\n"
        "from ingot.pipeline.graph import GateRule\n"
        "from ingot.pipeline.rules import read_bound\n"
        "from ingot.pipeline.verdicts import judge\n"
        "metric = dict(unit='bytes', better='lower', comparison='relative', reference=2, value=1, n=1)\n"
        "other = dict(unit='ms', better='lower', comparison='relative', reference=2, value=1, n=3)\n"
        "document = dict(schema=measurements.SCHEMA, kind='cost', task='causal-lm')\n"
        "document['metrics'] = dict(size_bytes=metric, load_ms=other)\n"
        "repeats = dict(load_ms=dict(reference=[1, 2, 3], value=[1, 1, 1]))\n"
        "cost = measurements.parse(json.dumps(document).encode(), json.dumps(repeats).encode())\n"
        "bound = read_bound(GateRule('size', 'max', '1MB', 'here'))\n"
        "verdict = judge(Store.open(pathlib.Path(sys.argv[1])), [bound], None, cost)\n"
        "print(verdict.status, 'numpy' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(store.root)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert runs == ["pass True\n", "pass False\n"]
