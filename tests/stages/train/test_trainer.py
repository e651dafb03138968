"""The loop: against a loop by hand, interrupted and not, with masks, means and broken losses."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from ingot.artifacts.errors import RecipeError, StageError
from ingot.stages.train.hooks import Hook, KeepZeros
from ingot.stages.train.objective import Loss, NextToken
from ingot.stages.train.schedule import share
from ingot.stages.train.trainer import rows_of, step_count, train


def weights(setup) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in setup.network.named_parameters()}


def equal(one, other) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


class Killed(Exception):
    """In place of a kill."""


class KillAt(Hook):
    def __init__(self, step: int) -> None:
        self._step = step

    def stepped(self, done: int) -> None:
        if done == self._step:
            raise Killed


class Broken(NextToken):
    """Its loss stops being a number at the fifth batch that trains."""

    seen = 0

    def loss(self, network, batch):
        found = super().loss(network, batch)
        self.seen += 1
        return Loss(found.total * math.nan) if self.seen == 5 else found


def test_a_training_is_what_torch_and_a_loop_by_hand_give(make_setup):
    setup = make_setup(
        steps=5, evaluate_every=5, learning_rate=3e-3, weight_decay=0.1, max_grad_norm=0.5, warmup=0.4,
        schedule="linear", extra={"first_result": 5},
    )  # fmt: skip
    module, ids = copy.deepcopy(setup.network), torch.from_numpy(setup.corpus.training.ids).long()
    matrices = [each for each in module.parameters() if each.ndim > 1]
    vectors = [each for each in module.parameters() if each.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95))
    losses = []
    for step in range(5):
        batch = ids[rows_of(step, 4, len(ids), 0)]
        loss = functional.cross_entropy(module(batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * share("linear", step, 5, 0.4)
        optimizer.step()
        optimizer.zero_grad()
    history = train(setup)
    assert [loss for _, loss, _ in history.steps] == pytest.approx(losses, rel=1e-5)
    for name, value in module.named_parameters():
        torch.testing.assert_close(dict(setup.network.named_parameters())[name], value, rtol=1e-4, atol=1e-6)


def test_every_epoch_takes_every_window_once_and_in_an_order_of_its_own():
    taken = np.concatenate([rows_of(step, 3, 10, 7) for step in range(10)])
    for epoch in range(3):
        assert sorted(taken[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert list(taken[:10]) != list(taken[10:20])
    assert list(rows_of(0, 3, 10, 8)) != list(taken[:3])


@pytest.mark.parametrize(
    ("length", "expected"),
    [({"steps": 7}, 7), ({"steps": None, "epochs": 2.0}, 10), ({"steps": None, "tokens": 200}, 4)],
)
def test_a_length_is_counted_in_steps_of_epochs_or_of_tokens(make_setup, length, expected):
    setup = make_setup(**length)
    windows = setup.corpus.training.at(slice(0, 18))
    # 18 windows of 16 tokens in batches of 4: an epoch is 4.5 steps, and 64 tokens are one.
    if "epochs" in length:
        expected = 9
    assert step_count(setup.params, windows) == expected


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"family": "gpt2", "dropout": True}])
def test_an_interrupted_training_ends_with_the_weights_of_one_that_was_not(make_setup, options):
    whole = make_setup(job="whole", learning_rate=3e-3, **options)
    expected = train(whole)
    killed = make_setup(job="killed", learning_rate=3e-3, extra={"hooks": (KillAt(5),)}, **options)
    with pytest.raises(Killed):
        train(killed)
    again = make_setup(job="killed", learning_rate=3e-3, **options)
    seen = []
    again = dataclasses.replace(again, progress=lambda done, total, what: seen.append(done))
    assert train(again) == expected
    assert seen == [5, 6]  # from behind the last measurement on
    assert equal(weights(whole), weights(again))
    assert expected.best > 0


def test_a_record_of_another_training_or_of_damaged_files_counts_for_nothing(make_setup):
    first = make_setup()
    expected = train(first)
    other = dataclasses.replace(make_setup(), fingerprint="another")
    seen: list[int] = []
    train(dataclasses.replace(other, progress=lambda done, total, what: seen.append(done)))
    assert seen == [1, 2, 3, 4, 5, 6]
    state = next(first.job.glob("state-*.safetensors"))
    state.write_bytes(state.read_bytes()[:-1] + b"\x01")
    seen.clear()
    again = dataclasses.replace(
        other, network=make_setup().network, progress=lambda done, *_: seen.append(done)
    )
    assert train(again) == expected
    assert seen == [1, 2, 3, 4, 5, 6]


def test_parts_of_a_batch_give_the_gradients_of_the_whole(make_setup):
    class Gradients(Hook):
        def __init__(self, network) -> None:
            self.network, self.found = network, []

        def gradients(self, step: int) -> None:
            self.found.append({name: each.grad.clone() for name, each in self.network.named_parameters()})

    found = []
    for parts in (1, 4, 3):
        setup = make_setup(steps=1, accumulation=parts, job=f"job{parts}")
        hook = Gradients(setup.network)
        train(dataclasses.replace(setup, hooks=(hook,)))
        found.append(hook.found[0])
    for other in found[1:]:
        for name, value in found[0].items():
            assert float((value - other[name]).norm()) <= 1e-5 * float(value.norm())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_absurd_learning_rate_leaves_the_weights_as_they_came(make_setup, family):
    setup = make_setup(family, learning_rate=30.0, warmup=0.0, max_grad_norm=0.0)
    before = weights(setup)
    history = train(setup)
    assert history.best == 0
    assert min(loss for _, loss in history.selection if loss is not None) == history.selection[0][1]
    assert equal(before, weights(setup))


def test_the_best_point_is_what_is_left_and_it_is_measured_as_it_is_written(make_setup):
    setup = make_setup(dtype="bfloat16", steps=12, learning_rate=2e-2, evaluate_every=1)
    history = train(setup)
    losses = dict(history.selection)
    assert losses[history.best] == min(losses.values()) < losses[0]
    for name, value in weights(setup).items():
        assert torch.equal(value, value.bfloat16().float()), name
    windows, total = setup.corpus.selection, 0.0
    for number in range(windows.count):
        ids = torch.from_numpy(windows.ids[number : number + 1]).long()
        with torch.no_grad():
            logits = setup.network(ids).logits[0, :-1]
        total += float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    assert history.best_loss == pytest.approx(total / (windows.count * 15), rel=1e-5)


def test_patience_ends_a_training_that_gets_no_better(make_setup):
    setup = make_setup(steps=40, learning_rate=30.0, warmup=0.0, patience=2)
    history = train(setup)
    assert [done for done, _ in history.selection] == [0, 2, 4]


def test_no_point_before_the_first_that_may_be_the_result_is_returned(make_setup):
    setup = make_setup(learning_rate=30.0, warmup=0.0, max_grad_norm=0.0, extra={"first_result": 4})
    assert train(setup).best in (4, 6)


def test_a_loss_that_is_not_a_number_is_named_and_the_best_point_is_left(make_setup):
    setup = make_setup(objective=Broken(), learning_rate=3e-3)
    with pytest.raises(StageError, match=r"not finite at step 5 of 6, with a learning rate of") as caught:
        train(setup)
    assert "lower learning_rate" in caught.value.fix
    assert all(torch.isfinite(value).all() for value in weights(setup).values())


def test_a_running_mean_is_what_its_formula_says(make_setup):
    class Seen(Hook):
        def __init__(self, network) -> None:
            self.network, self.found = network, []

        def stepped(self, done: int) -> None:
            self.found.append(weights_of(self.network))

    def weights_of(network):
        return {name: value.detach().clone().double() for name, value in network.named_parameters()}

    setup = make_setup(
        ema_decay=0.3, learning_rate=3e-3, steps=3, evaluate_every=3, extra={"first_result": 3}
    )
    mean, hook = weights_of(setup.network), Seen(setup.network)
    train(dataclasses.replace(setup, hooks=(hook,)))
    for done, after in enumerate(hook.found, 1):
        decay = min(0.3, (1 + done) / (10 + done))
        mean = {name: decay * value + (1 - decay) * after[name] for name, value in mean.items()}
    for name, value in weights(setup).items():
        torch.testing.assert_close(value.double(), mean[name], rtol=1e-5, atol=1e-7)


def test_masked_weights_stay_zero_through_every_step_and_in_the_mean(make_setup):
    setup = make_setup(ema_decay=0.5, learning_rate=1e-2)
    weight = setup.network.get_parameter("model.layers.0.mlp.up_proj.weight")
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    with torch.no_grad():
        weight[mask] = 0
    before = weight.detach().clone()
    history = train(dataclasses.replace(setup, hooks=(KeepZeros({"up": weight}),)))
    assert history.best > 0
    assert (weight[mask] == 0).all()
    assert not torch.equal(weight, before)


def test_groups_have_their_own_learning_rates_and_frozen_ones_stay(make_setup):
    from ingot.stages.train.weights import freeze

    setup = make_setup(
        learning_rate=1e-2, groups={"*.mlp.*": {"learning_rate": 0.0}}, extra={"first_result": 6}
    )
    freeze(setup.network, ("*embed_tokens*",))
    before = weights(setup)
    train(setup)
    for name, value in weights(setup).items():
        stays = ".mlp." in name or "embed_tokens" in name
        assert torch.equal(value, before[name]) == stays, name


@pytest.mark.parametrize("name", ["groups", "freeze"])
def test_a_pattern_that_matches_nothing_is_refused(make_setup, name):
    from ingot.stages.train.weights import freeze

    setup = make_setup(groups={"*.nothing.*": {"learning_rate": 1.0}} if name == "groups" else None)
    with pytest.raises(RecipeError, match=rf"^{name}: '\*.nothing.\*' matches no parameter"):
        freeze(setup.network, ("*.nothing.*",)) if name == "freeze" else train(setup)


def test_gradient_checkpointing_changes_no_weight(make_setup):
    plain, kept = make_setup(job="plain"), make_setup(job="kept", gradient_checkpointing=True)
    train(plain)
    train(kept)
    assert equal(weights(plain), weights(kept))
