"""Small tensors merged as mergekit merges them: within 1e-6, and in bfloat16 the same bits for `linear`.

`make_golden.py` made the files; `tests/bench/bench_merge_parity.py` compares whole checkpoints. Random
methods are given mergekit's draws. Differences that are meant are in docs/merging.md; no case here has one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ingot.stages.merge import method, native
from ingot.stages.merge.blocks import Blocks
from safetensors.torch import load_file

GOLDEN = Path(__file__).with_name("golden")
CASES = list(enumerate(json.loads((GOLDEN / "cases.json").read_text())))
TENSORS = load_file(GOLDEN / "mergekit.safetensors")
# Those that mergekit does not have.
OWN = {"fisher", "regmean"}


@dataclass(frozen=True)
class Drawn:
    """The numbers that mergekit drew in place of a generator's."""

    values: Any

    def uniform(self, start: int, stop: int) -> Any:
        return self.values[start:stop]

    def keeps(self, start: int, stop: int, probability: float) -> Any:
        return self.values[start:stop] < np.float32(probability)


def test_every_method_of_mergekits_is_compared():
    assert {case["method"] for _, case in CASES} == set(method.BUILTIN) - OWN


@pytest.mark.parametrize(
    ("number", "case"), CASES, ids=[f"{case['method']}-{case['shape']}-{number}" for number, case in CASES]
)
def test_the_output_is_that_of_mergekit(number, case, merge, monkeypatch):
    shape, parameters = case["shape"], case["parameters"]
    drawn = [Drawn(TENSORS[f"{shape}.drawn{model}"].flatten().numpy()) for model in range(3)]
    if method.get(case["method"]).is_random:
        # Kernels draw by themselves; `test_native.py` holds them to the same draws.
        monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(Blocks, "stream", lambda _self, model: drawn[model])
    dtype = getattr(torch, case["dtype"])
    models = range(case["models"])
    own = {name: value for name, value in parameters.items() if isinstance(value, list)}
    found = merge(
        case["method"],
        [TENSORS[f"{shape}.model{model}"].to(dtype) for model in models],
        TENSORS[f"{shape}.base"].to(dtype) if case["base"] else None,
        [{name: value[model] for name, value in own.items()} for model in models],
        dtype,
        **{name: value for name, value in parameters.items() if name not in own},
    )
    expected = TENSORS[f"out{number}"]
    assert found.dtype == expected.dtype
    if dtype == torch.bfloat16:
        assert torch.equal(found.view(torch.int16), expected.view(torch.int16))
    else:
        assert (found - expected).abs().max() <= 1e-6
