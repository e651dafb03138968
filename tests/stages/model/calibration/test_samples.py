"""Windows of the calibration text: how many, which, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def take(path: Path, directory: Path, window: int, most: int) -> Any:
    from ingot.stages.model.calibration.samples import take
    from ingot.stages.model.checkpoint import Checkpoint

    return take(path, directory, Checkpoint.open(directory).architecture, window, most)


def ids(samples: Any) -> list[list[int]]:
    return [row for batch in samples.batches for row in batch.ids.tolist()]


def test_windows_are_spread_evenly_over_the_text(text: Path, tiny_checkpoint: Any) -> None:
    directory = tiny_checkpoint("llama")
    every = ids(take(text, directory, 40, 10_000))
    whole = [row for row in every if len(row) == 40]
    chosen = ids(take(text, directory, 40, 5))
    assert chosen == [whole[number * len(whole) // 5] for number in range(5)]


def test_short_windows_are_taken_only_where_whole_ones_do_not_suffice(
    tmp_path: Path, tiny_checkpoint: Any
) -> None:
    import json

    path = tmp_path / "text.jsonl"
    texts = ["The river ran past the old mill. " * 9, "A smith.", "The town had a market and a road. " * 3]
    path.write_text("\n".join(json.dumps({"text": each}) for each in texts))
    lengths = [len(row) for row in ids(take(path, tiny_checkpoint("llama"), 40, 100))]
    assert lengths.count(40) >= 1
    assert min(lengths) < 40
    longest = ids(take(path, tiny_checkpoint("llama"), 40, lengths.count(40)))
    assert all(len(row) == 40 for row in longest)


def test_encoders_see_their_special_tokens(text: Path, tiny_checkpoint: Any) -> None:
    rows = ids(take(text, tiny_checkpoint("bert"), 40, 4))
    assert all(row[0] == 0 and row[-1] == 1 for row in rows)


def test_pairs_of_one_shape_go_together(text: Path, tiny_checkpoint: Any) -> None:
    samples = take(text, tiny_checkpoint("t5"), 40, 12)
    assert samples.windows == 12
    for batch in samples.batches:
        assert len(batch.ids) == len(batch.sources)
        assert batch.ids[:, 0].eq(2).all()


def test_the_digest_tells_texts_and_numbers_of_windows_apart(text: Path, tiny_checkpoint: Any) -> None:
    directory = tiny_checkpoint("llama")
    digests = {take(text, directory, width, most).digest for width, most in ((40, 5), (40, 6), (20, 10))}
    assert len(digests) == 3
    assert take(text, directory, 40, 5).digest in digests


def test_a_text_of_less_than_a_window_is_refused(tmp_path: Path, tiny_checkpoint: Any) -> None:
    path = tmp_path / "short.txt"
    path.write_text("The river.")
    with pytest.raises(DataError, match="fewer than one window of 40"):
        take(path, tiny_checkpoint("llama"), 40, 5)
    with pytest.raises(DataError, match="fewer than one window"):
        take(path, tiny_checkpoint("t5"), 40, 5)


def test_chats_and_tokens_are_documents_beside_texts(tmp_path: Path, tiny_checkpoint: Any) -> None:
    import json
    import shutil

    from ingot.stages.model.tokens import load_tokenizer

    directory = tmp_path / "chat"
    shutil.copytree(tiny_checkpoint("llama"), directory)
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    (directory / "chat_template.jinja").write_text(template)
    tokens = list(range(10, 50))
    lines = [
        {"input_ids": tokens},
        {"messages": [{"role": "user", "content": "The river ran past the old mill. " * 4}]},
        {"text": "She sold the hinges to the miller. " * 4},
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    rows = ids(take(path, directory, 20, 100))
    tokenizer = load_tokenizer(directory)
    assert rows[:2] == [tokens[:20], tokens[20:]]
    assert rows[2][0] == 0
    assert tokenizer.decode(rows[2]).startswith("user: The river")
    assert any(tokenizer.decode(row).startswith("She sold") for row in rows)


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path, tiny_checkpoint: Any) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text('{"input_ids": [5, 6, 320]}\n' * 30)
    with pytest.raises(DataError, match="320 is outside the model's vocabulary"):
        take(path, tiny_checkpoint("llama"), 3, 5)
