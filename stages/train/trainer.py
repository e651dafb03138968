"""The loop: batches, gradients, steps, measurements; the best point is what is left, step 0 included.

Weights and optimizer are float32 (AdamW, arXiv:1711.05101). A training that was interrupted goes on from its
last measurement and ends with the weights of one that was not, bit for bit where the device computes so: the
order of windows and every random number come from the seed and the number of the step alone. Under several
processes (`accelerate launch`, `torchrun`) each computes its share of every batch, and gradients are those of
one process; what is kept is whole, so that any number of processes goes on from it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from ...artifacts.errors import StageError
from ..model.calibration.calibrate import choose_device, choose_dtype
from .hooks import Hook
from .journal import History, Journal
from .objective import Batch, Objective
from .parallel import Both, share_of, spread, whole
from .params import TrainParams
from .schedule import share
from .text import Corpus
from .trackers import Tracker, open_tracker
from .weights import Weights, groups

if TYPE_CHECKING:
    import numpy.typing as npt

    from .text import Windows

    Numbers = npt.NDArray[np.int64]

DTYPES = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16"}
# Measurements where a recipe does not say how often.
MEASUREMENTS = 10
# Of a training's fingerprint, what trackers know it by.
RUN_LETTERS = 12


@dataclass(frozen=True, eq=False)
class Setup:
    """A training that can begin.

    job: a directory that survives a kill.  fingerprint: of all that decides how it goes beside the texts and
    the parameters: the weights at its start, the teacher ...  stored: the dtype that a parameter is written
    in; by default as it is.  first_result: the first step whose weights may be the result.
    """

    network: torch.nn.Module
    objective: Objective
    corpus: Corpus
    params: TrainParams
    job: Path
    fingerprint: str
    seed: int = 0
    threads: int = 1
    progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None
    hooks: Sequence[Hook] = ()
    stored: Mapping[str, torch.dtype] = field(default_factory=dict)
    first_result: int = 0


class Diverged(StageError):  # noqa: N818 - named for what happened
    """A loss or a gradient is not finite; the network has the weights of the best point so far."""


def train(setup: Setup) -> History:
    """Trains a network in place; behind it, the network has the weights of the best point.

    Raises Diverged (a StageError) where a loss or a gradient is not a finite number.
    """
    return _Trainer(setup).run()


def step_count(params: TrainParams, windows: Windows) -> int:
    """How many optimizer steps the parameters ask for."""
    if params.steps is not None:
        return params.steps
    if params.tokens is not None:
        return math.ceil(params.tokens / (params.batch_size * int(windows.ids.shape[1])))
    return math.ceil((params.epochs or 1.0) * int(windows.count) / params.batch_size)


def rows_of(step: int, size: int, count: int, seed: int) -> Numbers:
    """The windows of a step, int64 [size]: every epoch takes all ``count`` of them in an order of its own."""
    places = np.arange(step * size, (step + 1) * size)
    found = [_order(seed, place // count, count)[place % count] for place in places.tolist()]
    return np.array(found, np.int64)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Numbers:
    """The windows of an epoch, int64 [count]."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def selection_loss(
    network: torch.nn.Module,
    objective: Objective,
    windows: Windows,
    params: TrainParams,
    device: torch.device,
) -> float:
    """The mean of an objective's selection loss over the predicted tokens of windows, without gradients."""
    dtype = choose_dtype(DTYPES[params.precision], device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return _selection_share(
            functools.partial(objective.selection, network), windows, params, device, (0, 1)
        )


def _selection_share(
    measure: Callable[[Batch], torch.Tensor],
    windows: Windows,
    params: TrainParams,
    device: torch.device,
    turn: tuple[int, int],
) -> float:
    """What a process adds to the selection loss. turn: its number, and that of all processes.

    All measure equally often, since shares of weights are brought together for each batch.
    """
    number, count = turn
    size = max(1, params.batch_size // params.accumulation)
    starts = range(0, windows.count, size)
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for first in range(0, len(starts), count):
            counts = first + number < len(starts)
            start = starts[first + number] if counts else 0
            which = np.arange(start, min(start + size, windows.count))
            found = measure(windows.batch(which, device)).double().cpu()
            total += found if counts else 0.0
    return float(total) / windows.targets(np.arange(windows.count))


class _Trainer:
    def __init__(self, setup: Setup) -> None:
        params = setup.params
        self._setup, self._params = setup, params
        self._device = choose_device(params.device)
        # Poolers and experts that no token chose get no gradient.
        shared = DistributedDataParallelKwargs(find_unused_parameters=True)
        self._accelerator = Accelerator(cpu=self._device.type == "cpu", kwargs_handlers=[shared])
        self._device = self._accelerator.device
        torch.set_num_threads(setup.threads)
        if params.gradient_checkpointing:
            _checkpoint_blocks(setup.network)
        both = Both(setup.network, setup.objective, choose_dtype(DTYPES[params.precision], self._device))
        self._spread = spread(both, self._accelerator, params.parallel)
        for hook in setup.hooks:
            hook.begins(self._spread.current)
        self._weights = Weights(self._spread.own, setup.stored, params.ema_decay)
        added = {f"objective.{name}": each for name, each in self._spread.added.items()}
        self._trained = {**self._spread.own, **added}
        self._optimizer = torch.optim.AdamW(
            groups(self._trained, params), betas=(params.betas[0], params.betas[1]), fused=True
        )
        self._steps = step_count(params, setup.corpus.training)
        self._every = params.evaluate_every or math.ceil(self._steps / MEASUREMENTS)
        self._journal = Journal(setup.job, setup.fingerprint)
        self._history = History()
        self._tracker: Tracker | None = None

    def run(self) -> History:
        """Trains from the start, or from where an earlier run was interrupted."""
        done = self._resume()
        self._tracker = self._tracked(done or 0)
        try:
            return self._run(done)
        finally:
            if self._tracker is not None:
                self._tracker.close()

    def _run(self, done: int | None) -> History:
        if done is None:
            done = 0
            self._measure(0)
        began, tokens = time.monotonic(), 0
        while done < self._steps and not self._is_over():
            loss, counted = self._step(done)
            done += 1
            tokens += counted
            rate = tokens / max(time.monotonic() - began, 1e-9)
            self._setup.progress(done, self._steps, f"loss {loss:.3f}, {rate:.0f} tokens/s")
            self._log({"tokens_per_second": rate}, done)
            if done % self._every == 0 or done == self._steps:
                self._measure(done)
        self._spread.leave(self._journal.best())
        return self._history

    def _step(self, step: int) -> tuple[float, int]:
        """One step of the optimizer: its loss a token, and the tokens of its batch."""
        setup, params, accelerator = self._setup, self._params, self._accelerator
        torch.manual_seed(_mixed(setup.seed, step, accelerator.process_index))
        factor = share(params.schedule, step, self._steps, params.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = group["height"] * factor
        self._spread.called.train()
        rows = rows_of(step, params.batch_size, setup.corpus.training.count, setup.seed)
        shares = np.array_split(rows, accelerator.num_processes * params.accumulation)
        own = shares[accelerator.process_index :: accelerator.num_processes]
        counted = setup.corpus.training.targets(rows)
        totals: dict[str, torch.Tensor] = {}
        for number, part in enumerate(own):
            batch = setup.corpus.training.batch(part, self._device)
            if number + 1 < len(own):
                with accelerator.no_sync(self._spread.called):
                    self._backward(batch, counted, totals)
            else:
                self._backward(batch, counted, totals)
        names = sorted(totals)
        found = accelerator.reduce(torch.stack([totals[name] for name in names]) / counted, "sum")
        means = dict(zip(names, found.tolist(), strict=True))
        loss = means.pop("")
        for hook in setup.hooks:
            hook.gradients(step)
        trained = [each for each in self._trained.values() if each.grad is not None]
        norm = float(whole(torch.nn.utils.clip_grad_norm_(trained, params.max_grad_norm or math.inf)))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._diverged(step, loss, params.learning_rate * factor)
        self._optimizer.step()
        self._optimizer.zero_grad()
        for hook in setup.hooks:
            hook.stepped(step + 1)
        self._weights.stepped(step + 1)
        self._history.steps.append([step + 1, loss, params.learning_rate * factor])
        for name, value in means.items():
            self._history.parts.setdefault(name, []).append(value)
        self._log({"loss": loss, **means, "learning_rate": params.learning_rate * factor}, step + 1)
        return loss, len(rows) * setup.corpus.training.ids.shape[1]

    def _backward(self, batch: Batch, counted: int, totals: dict[str, torch.Tensor]) -> None:
        loss = self._spread.called(batch)
        # Gradients are averaged over processes, and this is a sum over all of them.
        self._accelerator.backward(loss.total * (self._accelerator.num_processes / counted))
        for name, part in {"": loss.total, **loss.parts}.items():
            value = part.detach().float()
            totals[name] = totals[name] + value if name in totals else value

    def _measure(self, done: int) -> None:
        """Takes the selection loss, keeps the weights where it is the lowest, and records all."""
        loss = self._selection_loss()
        finite = math.isfinite(loss)
        self._history.selection.append([done, loss if finite else None])
        self._log({"selection_loss": loss}, done)
        best = self._history.best_loss if len(self._history.selection) > 1 else None
        is_first = best is None or self._history.best < self._setup.first_result <= done
        main = self._accelerator.is_main_process
        if is_first or (finite and best is not None and loss < best and done >= self._setup.first_result):
            self._history.best = done
            written = self._gathered(self._weights.written())
            if main:
                self._journal.keep_best(done, written)
        state = self._gathered(self._state())
        if main:
            self._journal.save(done, state, self._history)
        self._accelerator.wait_for_everyone()
        if not main:
            self._journal.resume()

    def _selection_loss(self) -> float:
        """Nats a token of the selection text, by what would be written now."""
        setup, accelerator = self._setup, self._accelerator
        self._spread.called.eval()
        with self._weights.as_written():
            found = _selection_share(
                functools.partial(self._spread.both, chooses=True), setup.corpus.selection, self._params,
                self._device, (accelerator.process_index, accelerator.num_processes),
            )  # fmt: skip
        shared = torch.tensor(found, dtype=torch.float64, device=self._device)
        return float(accelerator.reduce(shared, "sum"))

    def _is_over(self) -> bool:
        """Whether so many measurements in a row were no better that the person's patience is at an end."""
        patience, first = self._params.patience, self._setup.first_result
        since = [
            done for done, _ in self._history.selection if done and done > max(self._history.best, first)
        ]
        return patience is not None and len(since) >= patience

    def _gathered(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values of which each process has a share, whole in the first, which alone keeps them."""
        found = {}
        for name, value in values.items():
            gathered = whole(value)
            if self._accelerator.is_main_process:
                found[name] = gathered
        return found

    def _state(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self._trained.items():
            found[f"weight.{name}"] = parameter
            for key, value in self._optimizer.state.get(parameter, {}).items():
                found[f"{key}.{name}"] = value
        for name, value in (self._weights.average or {}).items():
            found[f"average.{name}"] = value
        for number, hook in enumerate(self._setup.hooks):
            found.update({f"hook.{number}.{name}": value for name, value in hook.state().items()})
        return found

    def _resume(self) -> int | None:
        """The steps that an earlier run has done, all put back as it was; None where there was none."""
        found = self._journal.resume()
        if found is None:
            return None
        done, state, self._history = found
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(share_of(state[f"weight.{name}"], parameter))
                kept = {
                    key: state[f"{key}.{name}"]
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"{key}.{name}" in state
                }
                if kept:
                    self._optimizer.state[parameter] = {
                        key: share_of(value, parameter) if value.ndim else value.to(parameter.device)
                        for key, value in kept.items()
                    }
            for name, mean in (self._weights.average or {}).items():
                mean.copy_(share_of(state[f"average.{name}"], mean))
        for number, hook in enumerate(self._setup.hooks):
            prefix = f"hook.{number}."
            own = {name: value for name, value in state.items() if name.startswith(prefix)}
            hook.restore({name.removeprefix(prefix): value for name, value in own.items()})
        return done

    def _diverged(self, step: int, loss: float, rate: float) -> None:
        self._spread.leave(self._journal.best())
        best = self._history.best_loss
        kept = f"step {self._history.best}" + (f", selection loss {best:.4f}" if best is not None else "")
        what = "the loss is not finite" if not math.isfinite(loss) else "the gradients are not finite"
        raise Diverged(
            f"training diverged: {what} at step {step + 1} of {self._steps}, with a learning rate of "
            f"{rate:.3g} (the best point so far is {kept})",
            fix="lower learning_rate or lengthen warmup",
        )

    def _tracked(self, done: int) -> Tracker | None:
        """The tracker that is asked for, in the first process alone."""
        params = self._params
        if params.log_to is None or params.log_directory is None or not self._accelerator.is_main_process:
            return None
        return open_tracker(params.log_to, params.log_directory, self._setup.fingerprint[:RUN_LETTERS], done)

    def _log(self, values: Mapping[str, float], done: int) -> None:
        if self._tracker is not None:
            self._tracker.log(values, done)


def _checkpoint_blocks(network: Any) -> None:
    """Has a network of transformers compute its blocks again on the way back (arXiv:1604.06174)."""
    options = {"use_reentrant": False}
    # Its older releases know the second name alone, and its newer ones warn of it.
    if hasattr(network, "activation_checkpointing_enable"):
        network.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _mixed(*numbers: int) -> int:
    """A seed of its own for each combination of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
