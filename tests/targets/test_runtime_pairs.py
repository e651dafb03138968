"""Sessions of encoder-decoders against transformers: generation, batches, caches and refusals."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import InputError
from ingot.targets.runtimes import onnx
from ingot.targets.runtimes.base import Sampling
from ingot.targets.runtimes.onnx_pair import OnnxPairSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOURCES = [[7, 200, 31, 5, 1], [300, 9, 1], [44, 45, 46, 47, 48, 49, 50, 1], [12, 1]]
NEW_TOKENS = 12
FAMILIES = ["t5", "bart"]
START = {"t5": 2, "bart": 1}


@pytest.fixture(scope="module")
def opened(
    run_stage: Callable[..., Any], tiny_checkpoint: Callable[..., Path]
) -> Iterator[Callable[[str], OnnxPairSession]]:
    """The session of a family's export, with one thread; made once."""
    made: dict[str, OnnxPairSession] = {}

    def make(family: str) -> OnnxPairSession:
        if family not in made:
            session = onnx.open(run_stage("export.onnx", {"model": tiny_checkpoint(family)}).path, threads=1)
            assert isinstance(session, OnnxPairSession)
            made[family] = session
        return made[family]

    yield make
    for session in made.values():
        session.close()


def generated_by_transformers(directory: Path, **settings: object) -> list[list[int]]:
    """The target of each source alone, without padding or batch."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=torch.float32).eval()
    rows = []
    for source in SOURCES:
        ids = torch.tensor([source])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, **settings
        )
        new = whole[0, 1:].tolist()
        rows.append(new[: new.index(1)] if 1 in new else new)
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_padded_sources_generates_what_transformers_does_for_each(
    family: str, opened: Any, tiny_checkpoint: Callable[..., Path]
) -> None:
    expected = generated_by_transformers(tiny_checkpoint(family))
    assert len({tuple(row) for row in expected}) > 1
    assert opened(family).generate(SOURCES, Sampling(max_new_tokens=NEW_TOKENS)) == expected


def test_a_target_begins_with_the_token_that_the_model_asks_for(
    run_stage: Callable[..., Any], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_checkpoint("bart"), tmp_path / "model")
    settings = json.loads((directory / "generation_config.json").read_text())
    settings["forced_bos_token_id"] = 77
    (directory / "generation_config.json").write_text(json.dumps(settings))
    session = onnx.open(run_stage("export.onnx", {"model": directory}).path, threads=1)
    found = session.generate(SOURCES, Sampling(max_new_tokens=NEW_TOKENS))
    session.close()
    assert found == generated_by_transformers(directory)
    assert all(row[0] == 77 for row in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_drawn_for_a_source_does_not_depend_on_its_batch(family: str, opened: Any) -> None:
    sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=1.0, top_p=0.9, seed=5)
    together = opened(family).generate(SOURCES[:1] + SOURCES[1:], sampling)
    assert opened(family).generate(SOURCES[:1], sampling) == together[:1]
    assert together != opened(family).generate(SOURCES, Sampling(max_new_tokens=NEW_TOKENS))


@pytest.mark.parametrize("family", FAMILIES)
def test_stepping_through_a_cache_gives_the_same_as_all_at_once(family: str, opened: Any) -> None:
    session = opened(family)
    source = session.encode(np.array([SOURCES[0], SOURCES[1] + [0, 0]]), np.array([[1] * 5, [1, 1, 1, 0, 0]]))
    target = np.array([[START[family], 5, 60, 7, 8], [START[family], 90, 3, 11, 4]])
    whole = session.logits(source, target)
    first, past = session.step(source, target[:, :3])
    second, past = session.step(source, target[:, 3:4], past)
    third, past = session.step(source, target[:, 4:], past, logits_from=-1)
    assert past.length == 5
    np.testing.assert_allclose(np.concatenate([first, second, third], 1), whole, atol=1e-5)
    last, _ = session.step(source, target, logits_from=-1)
    assert last.shape == (2, 1, 320)
    np.testing.assert_allclose(last[:, 0], whole[:, -1], atol=1e-5)


def test_a_target_stops_where_the_context_is_full(opened: Any) -> None:
    rows = opened("bart").generate(SOURCES[:1], Sampling(max_new_tokens=500, temperature=1.0, seed=1))
    assert len(rows[0]) <= 127
    unending = opened("t5").generate(SOURCES, Sampling(max_new_tokens=500))
    assert max(len(row) for row in unending) == 127


def test_info_says_what_was_opened(opened: Any) -> None:
    info = opened("t5").info
    assert (info.task, info.layers, info.kv_heads, info.head_dim) == ("seq2seq-lm", 2, 4, 24)
    assert (info.context, info.source_context, info.decoder_start_id, info.eos_ids) == (128, 128, 2, (1,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.generate([[5], []], Sampling()), "prompt 2 is empty"),
        (
            lambda s: s.generate([[5] * 129], Sampling()),
            "129 tokens are more than the model's context of 128",
        ),
        (lambda s: s.encode(np.array([[5, 320]])), "token id 320 is outside the vocabulary of 320"),
        (lambda s: s.encode(np.array([[5, 6]]), np.array([[1]])), r"attention_mask has the shape \[1, 1\]"),
        (lambda s: s.logits(s.encode(np.array([[5]])), np.array([[-1]])), "token id -1 is outside"),
        (lambda s: s.logits(s.encode(np.array([[5]])), np.array([5])), "target_ids have the shape"),
        (lambda s: s.logits(s.encode(np.array([[5]])), np.array([[5], [6]])), "2 targets for 1 sources"),
        (lambda s: s.logits(s.encode(np.array([[5]])), np.full((1, 129), 5)), "129 tokens are more than"),
    ],
)
def test_what_the_graphs_cannot_take_is_refused_in_words(call: Any, message: str, opened: Any) -> None:
    with pytest.raises(InputError, match=message):
        call(opened("bart"))


def test_no_prompts_give_no_targets(opened: Any) -> None:
    assert opened("t5").generate([], Sampling()) == []


def test_keys_and_values_that_stay_where_they_were_computed_give_the_same(
    opened: Callable[[str], OnnxPairSession], run_stage: Callable[..., Any], tiny_checkpoint: Any
) -> None:
    plain = opened("t5")
    bound = onnx.open(run_stage("export.onnx", {"model": tiny_checkpoint("t5")}).path, threads=1)
    assert isinstance(bound, OnnxPairSession)
    for graph in (bound._encoder, bound._decoder):
        graph._is_bound = True
    prompts = [[5, 6, 7], [9, 8, 7, 6]]
    assert bound.generate(prompts, Sampling(6)) == plain.generate(prompts, Sampling(6))
    bound.close()
