"""What a build asks of a device, held against hand-written limits."""

from __future__ import annotations

import pytest
from ingot.targets.demands import BITS, Demand, broken
from ingot.targets.limits import WIDTHS, Limits, Verify


def rules(
    demand: Demand, limits: Limits | None = None, verify: Verify | None = None, **sizes: int
) -> list[str]:
    return [each.rule for each in broken(demand, limits or Limits(), verify or Verify(), sizes)]


@pytest.mark.parametrize(
    ("width", "sm", "rule"),
    [
        ("fp8", 80, "sm.fp8"), ("fp8", 86, "sm.fp8"), ("fp8", 89, None), ("fp8", 120, None),
        ("int4", 75, "sm.int4"), ("int4", 80, None), ("int3", 75, "sm.int4"),
        ("bf16", 75, "sm.bfloat16"), ("bf16", 80, None), ("fp16", 75, None), ("int8", 75, None),
    ],
)  # fmt: skip
def test_a_width_needs_the_compute_capability_that_nvidia_states(
    width: str, sm: int, rule: str | None
) -> None:
    assert rules(Demand((width,)), Limits(sm=sm)) == ([rule] if rule else [])


def test_the_capability_is_named_as_people_write_it() -> None:
    found = next(broken(Demand(("fp8",)), Limits(sm=80), Verify(), {}))
    assert "needs compute capability 8.9 or later, the device has 8.0" in found.what
    assert "SM 89" in found.fix


def test_what_stays_in_floating_point_is_held_against_the_device_too() -> None:
    assert rules(Demand(("int8", "bf16")), Limits(sm=75)) == ["sm.bfloat16"]
    assert rules(Demand(("int8", "fp32")), Limits(dtypes=("int8", "float16"))) == ["dtype.float32"]
    assert rules(Demand(("int8", "fp16")), Limits(dtypes=("int8", "float16"))) == []


def test_a_model_larger_than_the_memory_of_the_device_is_refused() -> None:
    # Seven thousand million weights in 16 bits are 14 GB; in 4 bits 3.5.
    demand = Demand(("fp16",), parameters=7_000_000_000)
    assert rules(demand, device_memory=14_000_000_000) == []
    assert rules(demand, device_memory=13_999_999_999) == ["memory.device"]
    assert rules(Demand(("int4", "fp16"), 7_000_000_000), device_memory=4_000_000_000) == []
    assert rules(demand, artifact_size=4_000_000_000) == ["size.artifact"]


def test_sequences_that_are_all_longer_than_the_context_cannot_be_validated() -> None:
    asked = Verify(sequence=(128, 1024))
    assert rules(Demand(("fp16",), context=64), verify=asked) == ["verify.sequence"]
    # The longer sizes end at the context.
    assert rules(Demand(("fp16",), context=512), verify=asked) == []


def test_every_width_has_an_element_type_and_a_number_of_bits() -> None:
    assert set(BITS) == set(WIDTHS)
