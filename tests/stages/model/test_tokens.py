"""Windows: hand-worked examples of what a sample is, and properties of any cutting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.errors import DataError, IntakeError
from ingot.stages.model import tokens
from ingot.stages.model.tokens import Windows, windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def rows(found: Windows) -> list[list[int]]:
    return [part.tolist() for part in np.split(found.ids, found.starts[1:])]


def test_windows_do_not_overlap_and_end_with_their_document() -> None:
    found = windows([[1, 2, 3, 4, 5, 6, 7], [8, 9, 10]], 3)
    # 7 is left alone at the end of the first document: a single token predicts nothing.
    assert rows(found) == [[1, 2, 3], [4, 5, 6], [8, 9, 10]]
    assert found.document.tolist() == [0, 0, 1]
    assert (found.count, found.tokens, found.documents) == (3, 9, 2)


def test_a_short_rest_of_two_tokens_is_a_window() -> None:
    assert rows(windows([[1, 2, 3, 4, 5], [6, 7]], 3)) == [[1, 2, 3], [4, 5], [6, 7]]


def test_a_document_without_any_window_leaves_no_number_behind() -> None:
    found = windows([[1, 2], [3], [4, 5]], 4)
    assert found.document.tolist() == [0, 2]
    assert found.documents == 2


def test_every_16_windows_of_an_unmarked_text_count_as_one_document() -> None:
    found = windows([list(range(2 * 40))], 2)
    assert found.document.tolist() == [0] * 16 + [1] * 16 + [2] * 8
    assert found.documents == 3


def test_two_documents_are_never_cut_into_sixteens() -> None:
    found = windows([list(range(2 * 40)), [1, 2]], 2)
    assert found.document.tolist() == [0] * 40 + [1]


def test_the_first_windows_are_whole_windows_within_the_count() -> None:
    found = windows([[1, 2, 3, 4, 5, 6, 7, 8], [9, 10]], 3)
    assert rows(found.first(6)) == [[1, 2, 3], [4, 5, 6]]
    assert rows(found.first(7)) == [[1, 2, 3], [4, 5, 6]]
    assert rows(found.first(8)) == [[1, 2, 3], [4, 5, 6], [7, 8]]
    assert rows(found.first(1)) == [[1, 2, 3]]
    assert found.first(100).count == 4


def test_a_windows_predictions_lie_one_place_earlier_for_each_window_before_it() -> None:
    # Lengths 3, 2, 3: predictions 0 1 | 2 | 3 4.
    found = windows([[1, 2, 3, 4, 5], [6, 7, 8]], 3)
    assert found.predictions(np.array([0, 2])).tolist() == [[0, 1], [3, 4]]
    assert found.predictions(np.array([1])).tolist() == [[2]]
    assert found.positions(np.array([0, 2])).tolist() == [[0, 1, 2], [5, 6, 7]]


documents = st.lists(st.lists(st.integers(0, 99), max_size=60), min_size=2, max_size=8)


@given(documents, st.integers(2, 20))
def test_windows_are_their_documents_without_single_last_tokens(texts: list[list[int]], length: int) -> None:
    found = windows(texts, length)
    kept = [ids[: len(ids) - 1] if len(ids) % length == 1 else ids for ids in texts]
    assert found.ids.tolist() == [token for ids in kept for token in ids]
    assert found.count == sum(math.ceil(len(ids) / length) for ids in kept)
    for number, ids in enumerate(kept):
        assert int(found.lengths[found.document == number].sum()) == len(ids)


@given(documents, st.integers(2, 20), st.integers(1, 200))
def test_batches_hold_every_window_once_with_equal_lengths(
    texts: list[list[int]], length: int, most_tokens: int
) -> None:
    found = windows(texts, length)
    seen: dict[int, list[int]] = {}
    lengths = []
    for which, ids in found.batches(most_tokens):
        assert ids.shape == (len(which), found.lengths[which[0]])
        assert ids.size <= most_tokens or len(which) == 1
        lengths.append(ids.shape[1])
        seen.update(zip(which.tolist(), ids.tolist(), strict=True))
    assert [seen[number] for number in sorted(seen)] == (rows(found) if found.count else [])
    assert lengths == sorted(lengths, reverse=True)


def test_a_token_outside_the_vocabulary_is_refused_with_both_numbers() -> None:
    sample = windows([[1, 320], [2, 3]], 4)
    tokens.check_vocabulary(sample, 321)
    with pytest.raises(DataError, match="token id 320 is outside the model's vocabulary of 320"):
        tokens.check_vocabulary(sample, 320)


def test_the_tokenizer_is_that_of_transformers(tiny_checkpoint: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    texts = ["The miller sold 3 hinges.", "naïve — boats!"]
    for family in ("llama", "bert"):
        directory = tiny_checkpoint(family)
        theirs = AutoTokenizer.from_pretrained(directory)(texts)["input_ids"]
        assert tokens.encode(tokens.load_tokenizer(directory), texts) == theirs


def test_padding_and_truncation_in_the_tokenizers_file_are_not_used(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer

    source = Tokenizer.from_file(str(tiny_checkpoint("llama") / "tokenizer.json"))
    text = "the river ran past the old mill " * 4
    whole = source.encode(text).ids
    source.enable_truncation(5)
    source.enable_padding(length=64)
    source.save(str(tmp_path / "tokenizer.json"))
    assert tokens.encode(tokens.load_tokenizer(tmp_path), [text]) == [whole]


def test_an_encoders_windows_have_special_tokens_around_each(tiny_checkpoint: Callable[..., Path]) -> None:
    tokenizer = tokens.load_tokenizer(tiny_checkpoint("bert"))
    text = "The river ran past the old mill and the road ran with the river."
    inner = tokenizer.encode(text, add_special_tokens=False).ids
    found = tokens.wrapped_windows(tokenizer, [text, "In April."], 8)
    first = [row for row, document in zip(rows(found), found.document, strict=True) if document == 0]
    assert [row[1:-1] for row in first] == [inner[at : at + 6] for at in range(0, len(inner), 6)]
    assert {(row[0], row[-1]) for row in rows(found)} == {(0, 1)}
    assert int(found.lengths.max()) == 8


def test_a_window_without_room_between_special_tokens_is_refused(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    tokenizer = tokens.load_tokenizer(tiny_checkpoint("bert"))
    with pytest.raises(DataError, match="no room"):
        tokens.wrapped_windows(tokenizer, ["text"], 2)


def test_a_missing_or_damaged_tokenizer_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(IntakeError, match=r"no tokenizer\.json"):
        tokens.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(IntakeError, match="cannot be read"):
        tokens.load_tokenizer(tmp_path)
