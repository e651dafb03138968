"""Block influence (Men et al. 2024, ShortGPT, arXiv:2403.03853): how far a layer turns its input."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from ....artifacts.errors import StageError
from ..blocks.layer import finish
from ..blocks.network import State, advance, steps
from ..blocks.tensors import BlockTensors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ....artifacts.tensors import TensorSource
    from ..blocks.network import Batch, Step
    from ..families import Architecture
    from .shelf import Shelf


def block_influence(
    model: Architecture,
    source: TensorSource,
    batches: Sequence[Batch],
    shelf: Shelf,
    device: torch.device,
    dtype: torch.dtype,
    threads: int,
    progress: Callable[[int, int, str], None],
) -> list[float]:
    """Of every layer, 1 − the mean over tokens of the cosine between its input and its output.

    One block's weights are in memory at a time; the same for any number of threads. Raises StageError where
    states are not finite.
    """
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    states, found = [State(torch.empty(0)) for _ in batches], []
    layers = {f"layers.{layer.index}" for layer in model.layers}
    todo = [step for step in steps(model) if step.name != "head"]
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for number, step in enumerate(todo):
            progress(number, len(todo), step.name)
            tensors = BlockTensors(source, device, dtype)
            tensors.bring(step.linears)

            def on(pair: tuple[Batch, State], step: Step = step, tensors: BlockTensors = tensors) -> State:
                batch, state = pair
                with torch.inference_mode():
                    return advance(step, state.memory, finish(step.run(tensors, shelf.keep, batch, state)))

            after = list(pool.map(on, zip(batches, states, strict=True)))
            if step.name in layers:
                found.append(_influence(step, states, after))
            states = after
            tensors.release()
    return found


def _influence(step: Step, before: Sequence[State], after: Sequence[State]) -> float:
    cosines = []
    for one, other in zip(before, after, strict=True):
        with torch.inference_mode():
            cosine = functional.cosine_similarity(one.hidden.float(), other.hidden.float(), dim=-1)
        cosines.append(cosine.double())
    total = math.fsum(float(cosine.sum()) for cosine in cosines)
    if not math.isfinite(total):
        raise StageError(f"{step.name} gives states that are not finite", fix="compute in float32")
    return 1.0 - total / sum(cosine.numel() for cosine in cosines)
