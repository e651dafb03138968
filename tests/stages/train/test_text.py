"""Texts as windows: packed, of chats, divided for choosing; against windows cut by hand."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from ingot.artifacts.errors import DataError
from ingot.artifacts.schema import build
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.tokens import load_tokenizer
from ingot.stages.train.params import TrainParams
from ingot.stages.train.text import read_corpus

EOS = 1
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}|\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def corpus(directory, path, notes=None, **params):
    built = build(TrainParams, {"training_text": str(path), "window": 16, "steps": 1, **params})
    return read_corpus(Checkpoint.open(directory), built, [].append if notes is None else notes.append)


@pytest.fixture
def chatty(tiny_checkpoint, tmp_path):
    directory = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "chatty")
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


def lines(path, *values):
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return path


def chat(*messages):
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def test_documents_are_joined_by_the_token_that_ends_a_text(tiny_checkpoint, tmp_path):
    path = lines(
        tmp_path / "a.jsonl", *({"input_ids": [10 * n, 10 * n + 1, 10 * n + 2]} for n in range(1, 21))
    )
    found = corpus(tiny_checkpoint("llama"), path)
    stream = [id_ for n in range(1, 19) for id_ in (10 * n, 10 * n + 1, 10 * n + 2, EOS)]
    held = [id_ for n in range(19, 21) for id_ in (10 * n, 10 * n + 1, 10 * n + 2, EOS)]
    # 18 documents of four tokens fill four windows of sixteen, and the last two half a window.
    assert found.training.ids.ravel().tolist() == stream[:64]
    assert found.selection.ids.tolist() == [held]
    assert found.training.predicted.tolist() == [[False, *[True] * 15]] * 4


def test_a_text_of_its_own_chooses_where_one_is_named(tiny_checkpoint, tmp_path):
    path = lines(tmp_path / "a.jsonl", {"input_ids": list(range(32))})
    chooser = lines(tmp_path / "b.jsonl", *({"input_ids": [n] * 15} for n in range(2, 9)))
    found = corpus(tiny_checkpoint("llama"), path, selection_text=str(chooser), selection_windows=3)
    assert found.training.count == 2
    assert found.selection.ids[:, 0].tolist() == [2, 4, 6]


def test_one_undivided_text_gives_its_last_windows(tiny_checkpoint, tmp_path):
    path = lines(tmp_path / "a.jsonl", {"input_ids": [n // 16 for n in range(16 * 20)]})
    found = corpus(tiny_checkpoint("llama"), path)
    assert found.training.ids[:, 0].tolist() == list(range(18))
    assert found.selection.ids[:, 0].tolist() == [18, 19]


def test_of_chats_the_responses_and_the_ends_of_their_turns_count_alone(chatty, tmp_path):
    talk = chat(
        ("user", "the mill"), ("assistant", "the river"), ("user", "a road"), ("assistant", "the town")
    )
    path = lines(tmp_path / "a.jsonl", *[talk] * 3)
    found = corpus(chatty, path, window=64)
    tokenizer = load_tokenizer(chatty)
    ids, counted = found.training.ids[0], found.training.predicted[0]
    length = int(found.training.lengths[0])
    assert not counted[length:].any()
    whole = tokenizer.decode(ids[:length].tolist(), skip_special_tokens=False)
    assert whole == "<user>the mill|\n<assistant>the river|\n<user>a road|\n<assistant>the town|\n"
    runs = np.flatnonzero(np.diff(np.concatenate([[False], counted, [False]]).astype(int)))
    spans = [tokenizer.decode(ids[a:b].tolist()) for a, b in zip(runs[::2], runs[1::2], strict=True)]
    assert [span.strip() for span in spans] == ["the river|", "the town|"]


def test_the_loss_of_a_chat_is_that_of_its_responses(chatty, tmp_path):
    import torch
    from ingot.stages.train.network import Network
    from ingot.stages.train.objective import NextToken

    short = chat(("user", "a"), ("assistant", "the river"))
    long = chat(("user", "the old mill and the road"), ("assistant", "the town"))
    found = corpus(chatty, lines(tmp_path / "a.jsonl", short, long, short), window=64).training
    network = Network.load(Checkpoint.open(chatty)).module
    batch = found.batch(np.array([0, 1]), torch.device("cpu"))
    assert batch.attended is not None
    expected = 0.0
    for row in (0, 1):
        ids = torch.from_numpy(found.ids[row : row + 1, : found.lengths[row]]).long()
        log = network(ids).logits.detach().log_softmax(-1)[0]
        places = np.flatnonzero(found.predicted[row])
        expected -= sum(float(log[place - 1, ids[0, place]]) for place in places)
    assert NextToken().loss(network, batch).total.item() == pytest.approx(expected, rel=1e-5)


def test_chats_without_a_response_within_the_window_are_left_out_and_said(chatty, tmp_path):
    good, silent = chat(("user", "a"), ("assistant", "b")), chat(("user", "nobody answers"))
    notes: list[str] = []
    found = corpus(chatty, lines(tmp_path / "a.jsonl", good, silent, good, good), notes, window=64)
    assert (found.training.count, found.selection.count) == (2, 1)
    assert notes == [
        "1 of 3 documents of the training text have nothing to learn from within 64 tokens, and are left out"
    ]


def test_a_template_that_rewrites_what_went_before_is_refused(chatty, tmp_path):
    (chatty / "chat_template.jinja").write_text("{{ messages | length }}" + TEMPLATE)
    path = lines(tmp_path / "a.jsonl", *[chat(("user", "a"), ("assistant", "b"), ("user", "c"))] * 2)
    with pytest.raises(DataError, match="responses cannot be told apart") as caught:
        corpus(chatty, path)
    assert str(caught.value.where).endswith("a.jsonl:1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no text"),
        (" \n ", "holds no text"),
        ('{"input_ids": [1]}\n', "one window alone|holds nothing to predict"),
        ('{"input_ids": [5, 6, 7]}\n', "none is left to choose by"),
        ('{"input_ids": [5, 999]}\n{"input_ids": [5, 6]}\n', "token id 999 is outside"),
    ],
)
def test_texts_that_hold_nothing_or_too_little_are_refused(tiny_checkpoint, tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        corpus(tiny_checkpoint("llama"), path)
