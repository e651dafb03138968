"""Text files as documents: forms, marks, and what is refused with its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import DataError
from ingot.stages.model.text import Pair, parse_documents, parse_pairs, read_documents

if TYPE_CHECKING:
    from pathlib import Path


def documents(text: str, name: str = "held-out.txt") -> list[str]:
    return parse_documents(text.encode(), name)


def test_plain_text_without_marks_is_one_document() -> None:
    assert documents("One line.\n\nAnother.\n") == ["One line.\n\nAnother.\n"]


@pytest.mark.parametrize("mark", ["<|endoftext|>", "  <|endoftext|> ", "<|endoftext|>\r"])
def test_lines_of_the_mark_set_documents_apart(mark: str) -> None:
    found = documents(f"first\n{mark}\nsecond\nstill second\n{mark}\n")
    assert [each.strip() for each in found] == ["first", "second\nstill second"]


def test_a_mark_inside_a_line_is_text() -> None:
    assert len(documents("say <|endoftext|> aloud\n")) == 1


def test_json_lines_keep_their_text_as_it_is() -> None:
    texts = ["a \u2028 line separator", "two\nlines", "naïve ☃"]
    lines = "\n\n".join(json.dumps({"text": text, "id": 1}, ensure_ascii=False) for text in texts)
    assert documents(lines + "\n", "held-out.JSONL") == texts


def test_pairs_are_documents_of_both_texts_to_all_but_encoder_decoders() -> None:
    lines = '{"source": "one", "target": "eins"}\n\n{"source": "two", "target": "zwei"}\n'
    assert documents(lines, "a.jsonl") == ["one\neins", "two\nzwei"]
    assert parse_pairs(lines.encode(), "a.jsonl") == [Pair("one", "eins"), Pair("two", "zwei")]


def test_a_text_of_documents_has_no_pairs() -> None:
    assert parse_pairs(b'{"text": "one", "source": "where it is from"}\n', "a.jsonl") == []
    assert parse_pairs(b'{"source": "one", "target": "eins"}\n', "a.txt") == []


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('{"source": "a", "target": "b"}\n{"text": "c"}\n', "a.jsonl", "1 of 2 lines are pairs"),
        ('{"source": "a", "target": " "}\n', "a.jsonl:1", "the source or the target is empty"),
        ('{"source": "a"}\n', "a.jsonl:1", 'no "text", nor a "source" and a "target"'),
    ],
)
def test_a_file_that_is_half_pairs_is_refused(text: str, where: str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        parse_pairs(text.encode(), "a.jsonl")
    assert caught.value.where == where


def test_documents_of_white_space_are_left_out() -> None:
    assert documents('{"text": " \\n"}\n{"text": "kept"}\n', "a.jsonl") == ["kept"]


def test_a_byte_order_mark_is_no_text() -> None:
    assert parse_documents(b"\xef\xbb\xbfword", "a.txt") == ["word"]


@pytest.mark.parametrize(
    ("text", "name", "where", "what"),
    [
        ("", "a.txt", "a.txt", "no text"),
        (" \n\t\n", "a.txt", "a.txt", "no text"),
        ("<|endoftext|>\n<|endoftext|>\n", "a.txt", "a.txt", "no text"),
        ("\n", "a.jsonl", "a.jsonl", "no text"),
        ('{"text": "fine"}\n{"text": \n', "a.jsonl", "a.jsonl:2", "not JSON"),
        ('{"text": "fine"}\n\n{"txt": "x"}\n', "a.jsonl", "a.jsonl:3", 'no "text"'),
        ('{"text": 3}\n', "a.jsonl", "a.jsonl:1", 'no "text"'),
        ('["text"]\n', "a.jsonl", "a.jsonl:1", 'no "text"'),
    ],
)
def test_what_holds_no_documents_is_refused_with_its_place(
    text: str, name: str, where: str, what: str
) -> None:
    with pytest.raises(DataError, match=what) as raised:
        documents(text, name)
    assert raised.value.where == where


def test_text_that_is_not_utf8_is_refused_with_the_byte() -> None:
    with pytest.raises(DataError, match="byte 3 is 0xe9"):
        parse_documents("caf\u00e9".encode("latin-1"), "a.txt")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_documents(tmp_path / "none.txt")


def test_chats_and_tokens_read_as_text_where_nothing_renders_them() -> None:
    lines = [
        {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]},
        {"input_ids": [3, 4, 5]},
    ]
    assert documents("\n".join(map(json.dumps, lines)), "chat.jsonl") == ["Where?\nThere.", "3 4 5"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": []}', "not a list of a"),
        ('{"messages": [{"role": "user"}]}', "not a list of a"),
        ('{"messages": "hi"}', "not a list of a"),
        ('{"input_ids": [1, -2]}', "not a list of token ids"),
        ('{"input_ids": [1, true]}', "not a list of token ids"),
        ('{"input_ids": []}', "not a list of token ids"),
    ],
)
def test_malformed_chats_and_tokens_are_refused_with_their_line(line: str, message: str) -> None:
    with pytest.raises(DataError, match=f"{message}.*chat.jsonl:2"):
        documents('{"text": "x"}\n' + line, "chat.jsonl")
