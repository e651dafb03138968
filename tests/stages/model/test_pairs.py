"""Pairs of source and target: hand-worked examples of how a text becomes them, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tokenizers
from ingot.artifacts.errors import DataError
from ingot.stages.model.pairs import HALVES, LINES, Pairs, by_source, of_lines, of_text, special_tokens
from ingot.stages.model.text import Pair
from ingot.stages.model.tokens import Windows
from tokenizers import models, pre_tokenizers, processors

START, BEGIN, END = 9, 7, 8


def word_tokenizer(begin: bool = True) -> tokenizers.Tokenizer:
    """One token a word, its id the number that it is; 7 before and 8 behind every text."""
    words = {**{str(number): number for number in range(7)}, "<s>": BEGIN, "</s>": END, "a": 9}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{'<s> ' if begin else ''}$A </s>", special_tokens=[("<s>", BEGIN), ("</s>", END)]
    )
    return tokenizer


def rows(found: Windows) -> list[list[int]]:
    return [part.tolist() for part in np.split(found.ids, found.starts[1:])]


def shown(found: Pairs) -> list[tuple[list[int], list[int]]]:
    return list(zip(rows(found.sources), rows(found.targets), strict=True))


def test_a_window_of_text_is_cut_in_two() -> None:
    found = of_text(word_tokenizer(), ["1 2 3 4 5 6 1 2 3", "4 5"], START, window=4, most=100)
    assert shown(found) == [
        ([BEGIN, 1, 2, END], [START, 3, 4]),
        ([BEGIN, 5, 6, END], [START, 1, 2]),
        # The 3 that is left over has nothing to predict it from.
        ([BEGIN, 4, END], [START, 5]),
    ]
    assert found.targets.document.tolist() == found.sources.document.tolist() == [0, 0, 1]
    assert (found.width, found.rule, found.cut) == (4, HALVES, 0)


def test_an_odd_rest_gives_the_target_the_token_more() -> None:
    found = of_text(word_tokenizer(), ["1 2 3", "4 5 6"], START, window=100, most=100)
    assert shown(found) == [([BEGIN, 1, END], [START, 2, 3]), ([BEGIN, 4, END], [START, 5, 6])]


def test_halves_leave_room_for_special_tokens_in_a_short_context() -> None:
    found = of_text(word_tokenizer(), ["1 2 3 4 5 6", "1 2"], START, window=100, most=4)
    assert found.width == 4
    assert max(found.sources.lengths) <= 4
    assert max(found.targets.lengths) <= 4
    with pytest.raises(DataError, match="2 tokens have no room for text between special tokens"):
        of_text(word_tokenizer(), ["1 2 3"], START, window=100, most=2)


def test_lines_are_pairs_as_they_stand_and_each_is_a_document() -> None:
    lines = [Pair("1 2", "3"), Pair("4", "5 6")]
    found = of_lines(word_tokenizer(), lines, START, most=10)
    assert shown(found) == [
        ([BEGIN, 1, 2, END], [START, BEGIN, 3, END]),
        ([BEGIN, 4, END], [START, BEGIN, 5, 6, END]),
    ]
    assert found.targets.document.tolist() == [0, 1]
    assert (found.rule, found.cut) == (LINES, 0)


def test_what_is_longer_than_the_context_loses_its_end_and_is_counted() -> None:
    lines = [Pair("1 2 3 4 5", "1"), Pair("1", "1 2 3 4 5"), Pair("1", "2")]
    found = of_lines(word_tokenizer(), lines, START, most=4)
    assert shown(found) == [
        ([BEGIN, 1, 2, END], [START, BEGIN, 1, END]),
        ([BEGIN, 1, END], [START, BEGIN, 1, 2]),
        ([BEGIN, 1, END], [START, BEGIN, 2, END]),
    ]
    assert found.cut == 2


def test_the_first_pairs_are_those_of_the_first_targets() -> None:
    lines = [Pair("1 2", "3"), Pair("4", "5 6"), Pair("1", "2")]
    found = of_lines(word_tokenizer(begin=False), lines, START, most=10)
    assert shown(found.first(7)) == [([1, 2, END], [START, 3, END]), ([4, END], [START, 5, 6, END])]
    assert found.first(1).targets.count == 1


@pytest.mark.parametrize("begin", [True, False])
def test_special_tokens_are_found_before_and_behind(begin: bool) -> None:
    assert special_tokens(word_tokenizer(begin)) == ([BEGIN] if begin else [], [END])


def test_targets_are_run_with_their_own_sources_and_never_with_padding() -> None:
    sources = Windows(np.array([1, 1, 5, 2, 2, 6, 6, 6]), np.array([2, 1, 2, 3]), np.arange(4))
    seen: list[Any] = []

    def run(targets: Any, source: Any) -> Any:
        seen.append(source.tolist())
        return targets * 10 + source.sum(axis=1, keepdims=True)

    found = by_source(run, sources, np.array([3, 0, 1, 2]), np.array([[1], [2], [3], [4]]))
    assert [row.tolist() for row in found] == [[28], [22], [35], [44]]
    assert sorted(seen) == [[[1, 1], [2, 2]], [[5]], [[6, 6, 6]]]
