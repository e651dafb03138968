"""Catastrophic patterns are told from those of the tokenizers in use."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.stages.model.patterns import MOST_CHARACTERS, catastrophe, patterns

# As released: GPT-2, Llama 3, GPT-4o, cl100k with possessive quantifiers, thousands from the right, spaces of
# T5, BLOOM's class with a class in it, words with spaces between, and an intersection of classes.
IN_USE = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{Lm}\p{M}]+(?i:'s|'t|'re)?|\p{N}{1,3}|\s*[\r\n]+|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s",
    r"(?=(\d{3})+(?!\d))",
    r" {2,}",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|\s+",
    r"[\p{Han}]+|[\p{Lu}\p{M}&&[^\p{Han}]]*[\p{Ll}&&[^\p{Han}]]+(?i:'s|'t)?",
)
CATASTROPHIC = (
    "(a+)+$", "(x+x+)+y", "((a*)*)*b", "(a|aa)+$", r"(?:\w+\s?)+$", "((a+)+b)", "(?i:(?:a|b+)*)c",
    "(a{1,3})+b", "(a*)*?b", r"([a-z]+)*\d", "^(([a-z])+.)+[A-Z]([a-z])+$", r"([^\]a]+)*b", r"(\(+)+\)",
    "(?<word>a+)+b", "(?# a note )(a+)+b", "x|(a+)+b|y",
)  # fmt: skip


@pytest.mark.parametrize("pattern", IN_USE)
def test_the_patterns_of_tokenizers_in_use_pass(pattern):
    assert catastrophe(pattern) is None


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_an_endless_repetition_of_what_varies_with_something_behind_it_is_found(pattern):
    assert "more than one way" in catastrophe(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+", "(?>a+)+b", "(?:a++)+b", "(?=(a+)+)b", "[(a+)+]b", r"\(a+\)+b"])
def test_what_cannot_fail_is_atomic_or_is_only_text_passes(pattern):
    assert catastrophe(pattern) is None


def test_patterns_too_long_or_too_deep_to_look_at_are_refused():
    assert "characters" in catastrophe("a" * (MOST_CHARACTERS + 1))
    assert catastrophe("(" * 5000) is not None


@given(st.text(alphabet="ab()[]{}|*+?\\^:<!=>#1,pP", max_size=40))
def test_any_text_is_read_to_its_end(pattern):
    catastrophe(pattern)


def test_patterns_are_found_wherever_a_tokenizer_has_them_and_not_in_its_vocabulary():
    split = {"type": "Split", "pattern": {"Regex": "a"}}
    value = {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": "b"}}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"pattern": {"String": "c"}}]},
        "decoder": {"type": "Replace", "pattern": {"Regex": "d"}},
        "model": {"vocab": {"Regex": 1}, "merges": [["Regex", "e"]]},
    }
    assert sorted(patterns(json.loads(json.dumps(value)))) == ["a", "b", "d"]
