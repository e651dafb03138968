"""The parts in which two keys differ: which they are, in which order, and in which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline.key_changes import changes

OLD = {
    "stage": "quantize.rtn",
    "version": 1,
    "source": "a" * 64,
    "params": {"bits": 4, "sym": True},
    "data": {"evaluation": "b" * 64},
    "inputs": {"model": "c" * 64},
    "tools": {"python": "3.11", "numpy": "2.4.0"},
    "platform": {},
    "host": None,
    "seed": 0,
}


def test_a_key_that_did_not_change_has_no_changes() -> None:
    assert changes(OLD, dict(OLD)) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"params": {"bits": 8, "sym": True}}, "bits: 4 → 8"),
        ({"params": {"bits": 4}}, "sym: True → none"),
        ({"data": {"evaluation": "d" * 64}}, "the content of evaluation changed"),
        ({"inputs": {"model": "d" * 64}}, "the input model changed"),
        ({"inputs": {"model": None}}, "the input model is not known yet"),
        ({"tools": {"python": "3.12", "numpy": "2.4.0"}}, "tools python: 3.11 → 3.12"),
        ({"source": "d" * 64}, "the stage's source changed"),
        ({"version": 2}, "version: 1 → 2"),
        ({"seed": 7}, "seed: 0 → 7"),
        ({"host": "d" * 64}, "host: none → dddddddddddd"),
        ({"platform": {"isa": ["avx2"]}}, "platform isa: none → ['avx2']"),
    ],
)
def test_each_part_of_a_key_that_changed_is_told_in_words(change: dict[str, object], words: str) -> None:
    found = changes(OLD, {**OLD, **change})
    assert [str(each) for each in found] == [words]


def test_what_a_person_changed_is_told_before_what_an_upgrade_changed() -> None:
    new = {**OLD, "source": "d" * 64, "tools": {"python": "3.12"}, "params": {"bits": 8}}
    assert [each.part for each in changes(OLD, new)] == [
        "params.bits", "params.sym", "tools.numpy", "tools.python", "source",
    ]  # fmt: skip


values = st.none() | st.integers(0, 3) | st.text("ab", max_size=2)
preimages = st.dictionaries(
    st.sampled_from(list(OLD)), values | st.dictionaries(st.sampled_from("xyz"), values, min_size=1)
)


@given(preimages, preimages)
def test_changes_read_backwards_are_the_changes_the_other_way_round(
    old: dict[str, object], new: dict[str, object]
) -> None:
    there = {(each.part, str(each.old), str(each.new)) for each in changes(old, new)}
    back = {(each.part, str(each.new), str(each.old)) for each in changes(new, old)}
    assert there == back
    assert changes(old, old) == ()
