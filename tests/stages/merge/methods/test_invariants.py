"""What every method keeps: bytes whatever the threads and blocks, models that agree, and their order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from ingot.stages.merge import method

SHAPE = (70, 33)
# What methods need to be told; the rest are defaults.
SHARED: dict[str, dict[str, Any]] = {
    "slerp": {"t": 0.3}, "nearswap": {"t": 0.1}, "sce": {"select_topk": 0.4}, "ram": {"epsilon": 0.3},
    "ramplus_tl": {"epsilon": 0.3, "r": 0.5, "alpha": 2.0},
}  # fmt: skip
# Methods that change what a single agreed difference is: they drop elements, or go only part of the way.
PARTIAL = {"slerp", "nearswap", "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "ties", "dare_linear",
           "dare_ties", "della", "della_linear"}  # fmt: skip


def inputs(name: str) -> int:
    found = method.get(name)
    return min(found.most or 3, max(found.least, 3))


def own(name: str, number: int, **values: Any) -> list[dict[str, Any]]:
    """The parameters that each input has for itself."""
    declared = {each.name for each in method.get(name).parameters if each.scope != "shared"}
    usual = {"weight": 0.5, "density": 0.6, "epsilon": 0.2, "gamma": 0.1, **values}
    return [{key: value for key, value in usual.items() if key in declared} for _ in range(number)]


def drawn(seed: int, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("name", method.BUILTIN)
def test_neither_threads_nor_blocks_change_a_byte(name: str, merge: Any) -> None:
    base, *given = drawn(0, 1 + inputs(name))
    base = base if method.get(name).base != "none" else None
    each, shared = own(name, len(given)), SHARED.get(name, {})
    one, many, small = (
        merge(name, given, base, each, threads=threads, elements=elements, **shared)
        for threads, elements in ((1, None), (3, 700), (2, 50))
    )
    assert torch.equal(one, many)
    assert torch.equal(one, small)


@pytest.mark.parametrize("name", method.BUILTIN)
def test_models_like_the_base_leave_it(name: str, merge: Any) -> None:
    (base,) = drawn(1, 1)
    given = [base] * inputs(name)
    has_base = method.get(name).base == "required"
    found = merge(name, given, base if has_base else None, own(name, len(given)), **SHARED.get(name, {}))
    torch.testing.assert_close(found, base, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in method.BUILTIN if name not in PARTIAL])
def test_models_that_agree_are_what_comes_out(name: str, merge: Any) -> None:
    base, model = drawn(2, 2)
    number = inputs(name)
    weight = 1 / number if name == "task_arithmetic" else 0.5
    has_base = method.get(name).base == "required"
    shared = {**SHARED.get(name, {}), **({"select_topk": 1.0} if name == "sce" else {})}
    if name.startswith("ram"):
        shared["epsilon"] = 0.0
    found = merge(
        name, [model] * number, base if has_base else None, own(name, number, weight=weight), **shared
    )
    torch.testing.assert_close(found, model, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name in method.BUILTIN if inputs(name) > 2 and not method.get(name).is_random]
)
def test_the_order_of_models_does_not_matter(name: str, merge: Any) -> None:
    base, *given = drawn(3, 1 + inputs(name))
    base = base if method.get(name).base != "none" else None
    found = [
        merge(name, list(order), base, own(name, len(given)), **SHARED.get(name, {}))
        for order in permutations(given)
    ]
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=1e-5, atol=1e-5)
