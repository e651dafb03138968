"""Encoder-decoders as teacher and student: the loss against transformers pair by pair, adapters, a resume."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from ingot.artifacts.schema import build
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.train.distillation import Distillation, Terms
from ingot.stages.train.halves import Half, halves
from ingot.stages.train.network import Network
from ingot.stages.train.params import TrainParams
from ingot.stages.train.text import read_corpus

from ..conftest import TEXT

WORDS = TEXT.split()[:12]


@pytest.fixture
def pairs(tmp_path):
    """A file of sources and targets, no two of one length in a row."""
    lines = [
        {"source": " ".join(["say", *WORDS[:number]]), "target": " ".join(WORDS[: 1 + number % 4])}
        for number in range(1, 11)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_the_loss_of_a_padded_batch_is_that_of_its_pairs_one_by_one(kind, tiny_checkpoint, pairs):
    # Of other depths and heads: three and two layers of an encoder, two and three of a decoder.
    sources = [Checkpoint.open(tiny_checkpoint(family)) for family in ("t5", "bart")]
    student, teacher = (Network.load(each, attention="eager").module.eval() for each in sources)
    params = build(TrainParams, {"training_text": str(pairs), "selection_text": str(pairs), "window": 32})
    windows = read_corpus(sources[0], params, [].append).training
    encoder, decoder = ((0, 0), (1, 1), (2, 1)), ((0, 1), (1, 2))
    compared = halves(*(each.architecture for each in sources), (1, 2), (0, 1, 1))
    assert [each.pairs for each in compared] == [encoder, decoder]
    objective = Distillation(Terms(kind, 3.0, 0.25, 2.0, 0.5), teacher, compared).eval()
    batch = windows.batch(np.arange(5), torch.device("cpu"))
    assert batch.attended is not None  # targets are padded,
    assert not batch.read.all()  # and so are sources
    found = objective.loss(student, batch)

    taught = likelihood = 0.0
    hidden = {(stack, pair): [0.0, 0.0] for stack, own in (("e", encoder), ("d", decoder)) for pair in own}
    maps = dict.fromkeys([*hidden, *(("x", pair) for pair in decoder)], 0.0)
    places = {"e": 0, "d": 0}
    for number in range(5):
        ids = torch.from_numpy(windows.ids[number : number + 1, : windows.lengths[number]]).long()
        read = torch.from_numpy(windows.sources[number : number + 1, : windows.source_lengths[number]]).long()
        with torch.no_grad():
            ours, theirs = (
                each(
                    input_ids=read, decoder_input_ids=ids, use_cache=False, output_hidden_states=True,
                    output_attentions=True,
                )
                for each in (student, teacher)
            )  # fmt: skip
        p, q = ((each.logits[0, :-1].double() / 3).log_softmax(-1) for each in (theirs, ours))
        mean = ((p.exp() + q.exp()) / 2).log()
        taught += {
            "forward": (p.exp() * (p - q)).sum(),
            "reverse": (q.exp() * (q - p)).sum(),
            "js": ((p.exp() * (p - mean)).sum() + (q.exp() * (q - mean)).sum()) / 2,
        }[kind].item()
        logs = ours.logits[0, :-1].log_softmax(-1)
        likelihood -= logs[range(len(logs)), ids[0, 1:]].sum().item()
        places["e"] += read.shape[1]
        places["d"] += ids.shape[1]
        for (stack, (own, other)), sums in hidden.items():
            name = {"e": "encoder_hidden_states", "d": "decoder_hidden_states"}[stack]
            mine, its = getattr(ours, name)[own + 1], getattr(theirs, name)[other + 1]
            sums[0] += (mine - its).square().sum().item()
            sums[1] += its.square().sum().item()
        for stack, (own, other) in maps:
            name = {"e": "encoder_attentions", "d": "decoder_attentions", "x": "cross_attentions"}[stack]
            mine, its = getattr(ours, name)[own][0], getattr(theirs, name)[other][0]
            if len(mine) != len(its):
                mine, its = mine.mean(0, keepdim=True), its.mean(0, keepdim=True)
            maps[stack, (own, other)] += (mine - its).square().sum().item() / len(mine)
    count = int(batch.predicted.sum())
    states = sum(error / size for error, size in hidden.values()) / len(hidden)
    attention = sum(error / places["e" if stack == "e" else "d"] for (stack, _), error in maps.items()) / len(
        maps
    )
    parts = {
        "divergence": taught, "next_token": likelihood,
        "hidden": count * states, "attention": count * attention,
    }  # fmt: skip
    assert {name: part.item() for name, part in found.parts.items()} == pytest.approx(parts, rel=1e-4)
    total = 0.25 * 9 * taught + 0.75 * likelihood + count * (2.0 * states + 0.5 * attention)
    assert found.total.item() == pytest.approx(total, rel=1e-4)
    assert math.isfinite(total)


def narrow_teacher():
    """A network of half the tiny T5's width and one layer in either half, of random weights."""
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=320, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_decoder_layers=1, num_heads=2,
        decoder_start_token_id=3, pad_token_id=3, dropout_rate=0.0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).eval()


def test_a_resumed_distillation_with_adapters_in_both_halves_ends_as_one_that_was_not_interrupted(
    make_setup, pairs
):
    from ingot.stages.train.hooks import Hook
    from ingot.stages.train.trainer import train

    class Killed(Exception):
        """In place of a kill."""

    class KillAt(Hook):
        def stepped(self, done: int) -> None:
            if done == 3:
                raise Killed

    compared = [Half(((2, 0),), (64, 32), "encoder_"), Half(((1, 0),), (64, 32), "decoder_")]

    def setup(job, *hooks):
        torch.manual_seed(1)
        objective = Distillation(Terms("forward", 2.0, 0.2, 1.0, 0.0), narrow_teacher(), compared)
        options = {"training_text": str(pairs), "selection_text": str(pairs), "learning_rate": 3e-3}
        return dataclasses.replace(make_setup("t5", objective, job, **options), hooks=hooks)

    whole = setup("whole")
    before = [each.weight.detach().clone() for each in whole.objective.states.adapters]
    expected = train(whole)
    assert expected.best > 0
    for each, began in zip(whole.objective.states.adapters, before, strict=True):
        assert not torch.equal(each.weight, began)
    with pytest.raises(Killed):
        train(setup("killed", KillAt()))
    again = setup("killed")
    assert train(again) == expected
    for name, value in whole.network.named_parameters():
        assert torch.equal(value, again.network.get_parameter(name)), name


def test_kept_predictions_of_a_teacher_of_pairs_give_the_loss_that_asking_it_gives(
    make_setup, pairs, tmp_path
):
    from ingot.stages.train.teacher_cache import Cache

    setup = make_setup("t5", training_text=str(pairs), selection_text=str(pairs))
    cache = Cache(tmp_path / "cache", setup.corpus.training, 16)
    terms, batch = (
        Terms("js", 2.0, 1.0, 0.0, 0.0),
        setup.corpus.training.batch(np.arange(4), torch.device("cpu")),
    )
    teacher = narrow_teacher()
    kept, plain = (Distillation(terms, teacher, cache=each, top_k=16).train() for each in (cache, None))
    with torch.no_grad():
        asked = kept.loss(setup.network, batch).total
        teacher.forward = None  # nobody may ask it again
        known = kept.loss(setup.network, batch).total
        del teacher.forward
        assert asked.item() == known.item() == plain.loss(setup.network, batch).total.item()
