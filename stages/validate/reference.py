"""`validate.reference`: what the unmodified model predicts for the evaluation text, in torch at full
precision.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...artifacts.errors import DataError, StageError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.torch_network import CLASSES, Network
from . import golden
from .sample import Sample, take

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from ..model.families import Outline
    from ..model.logits import TopK
    from ..model.logits_store import Logits
    from ..model.tokens import Windows

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]
    Array = TypeVar("Array", Floats, Doubles)


@dataclass(frozen=True)
class ReferenceParams:
    """Parameters of `validate.reference`."""

    evaluation: str = param(is_file=True, doc="held-out text, which no other stage reads")
    window: int = param(
        256,
        minimum=2,
        doc="tokens of a sample, less where the model's context is shorter; 256 so that a text of tens of "
        "thousands of tokens gives hundreds of samples",
    )
    max_tokens: int = param(
        0, minimum=0, doc="only the first windows, of at most so many tokens; 0 is all, which decides most"
    )
    top_k: int = param(
        50,
        minimum=1,
        doc="log-probabilities kept of a prediction; 50 hold nearly all of its mass, the rest counts as one",
    )
    prompts: tuple[str, ...] = param(
        golden.PROMPTS,
        doc="texts that a language model and its artifacts go on from, for people to read; a fact, a story "
        "and a date, from which any model goes on",
    )
    new_tokens: int = param(
        24, minimum=1, doc="tokens after each prompt; 24 show where texts part, and take less than a second"
    )


@stage(
    "validate.reference",
    params=ReferenceParams,
    inputs={"model": ("checkpoint",)},
    output="logits",
    version=1,
    determinism="bitwise",
    tools=("numpy", "tokenizers", "torch", "transformers"),
    summary="The unmodified model's predictions for the evaluation text, in torch float32",
    any_architecture=True,
    takes_compact=True,
)
def run(context: Context[ReferenceParams]) -> Result:
    """Writes the logits of all windows and of the parity inputs, and how a language model goes on from
    prompts.

    Raises DataError for a text of fewer tokens than one window and for tokens outside the vocabulary, and
    StageError when the model's own output is not finite.
    """
    from ...artifacts.digest import digest_bytes
    from ..model import logits_store
    from ..model.checkpoint import Checkpoint
    from ..model.heap import return_freed_blocks

    directory = context.inputs["model"].path
    model = Checkpoint.open(directory).outline
    if model.task not in CLASSES:
        raise StageError(f"a model of the task {model.task} cannot be measured, only {', '.join(CLASSES)}")
    params, path = context.params, Path(context.params.evaluation)
    data = _read(path)
    sample = take(data, str(path), directory, model, params.window, params.max_tokens)
    return_freed_blocks()
    started = time.perf_counter()
    network = Network(directory, model.task)
    loaded = time.perf_counter()
    logits = _evaluate(context, network, model, sample, digest_bytes(data))
    seconds = time.perf_counter() - loaded
    logits_store.write(logits, context.output)
    if model.task != "encoder":
        golden.write(_continuations(context, network, model, directory), context.output)
    observed = {
        "load_seconds": round(loaded - started, 3),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(sample.windows.tokens / seconds),
    }
    return Result(facts=logits.facts(), observed=observed)


def _continuations(
    context: Context[ReferenceParams], network: Network, model: Outline, directory: Path
) -> Iterator[golden.Continuation]:
    """How the model goes on from each prompt that its context has room for; a note tells of the others.

    To an encoder-decoder a prompt is a source.
    """
    import numpy as np

    from ..model.checkpoint import settings
    from ..model.tokens import load_tokenizer

    tokenizer, new_tokens = load_tokenizer(directory), context.params.new_tokens
    first = settings(directory).get("forced_bos_token_id")
    for prompt in context.params.prompts:
        ids = tokenizer.encode(prompt).ids
        if not 0 < len(ids) < model.context:
            context.note(
                f"the prompt {prompt!r} of {len(ids)} tokens is left out: the context has {model.context}"
            )
        elif model.source_context is None:
            yield golden.continued(network, prompt, ids, min(new_tokens, model.context - len(ids)))
        else:
            source = np.array([ids], np.int64)
            yield replace(
                golden.continued(
                    partial(network, sources=source),
                    prompt,
                    [model.decoder_start or 0],
                    min(new_tokens, model.context - 1),
                    first if isinstance(first, int) else None,
                ),
                source_ids=tuple(ids),
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the evaluation text cannot be read: {error.strerror}", where=str(path)) from None


def _evaluate(
    context: Context[ReferenceParams], network: Network, model: Outline, sample: Sample, digest: str
) -> Logits:
    from ..model.logits_store import Logits
    from ..model.parity import reference_rows

    rows = reference_rows(lambda *given: _finite(network(*given)), model)
    found = Logits(model.task, sample.width, model.vocabulary, digest, sample.windows, rows)
    if model.task == "encoder":
        return replace(found, hidden=_hidden(context, network, model.hidden, sample.windows))
    nll, top = _predictions(context, network, model.vocabulary, sample)
    return replace(found, nll=nll, top=top, sources=sample.sources, pairs=sample.pairs, cut=sample.cut)


def _predictions(
    context: Context[ReferenceParams], network: Network, vocabulary: int, sample: Sample
) -> tuple[Floats, TopK]:
    """Losses and likeliest tokens of all predictions."""
    import numpy as np

    from ..model.logits import TopK
    from ..model.pairs import by_source
    from .batches import side_by_side
    from .scores import predictions

    windows, sources = sample.windows, sample.sources
    k = min(context.params.top_k, vocabulary)
    count = windows.tokens - windows.count
    nll = np.empty(count, np.float32)
    top = TopK(np.empty((count, k), np.int32), np.empty((count, k), np.float32), np.empty(count, np.float32))

    def work(which: Ids, ids: Ids) -> list[tuple[Doubles, TopK]]:
        outputs = network(ids) if sources is None else by_source(network, sources, which, ids)
        kept = [predictions(logits, row, k) for logits, row in zip(outputs, ids, strict=True)]
        for losses, _ in kept:
            _finite(losses)
        return kept

    done = side_by_side(work, windows, vocabulary, context.threads, context.progress)
    for which, results in done:
        for place, (losses, kept) in zip(windows.predictions(which), results, strict=True):
            nll[place] = losses
            top.ids[place], top.log_probabilities[place], top.tail[place] = (
                kept.ids,
                kept.log_probabilities,
                kept.tail,
            )
    return nll, top


def _hidden(context: Context[ReferenceParams], network: Network, width: int, windows: Windows) -> Floats:
    """The last hidden state of all tokens."""
    import numpy as np

    from .batches import side_by_side

    hidden = np.empty((windows.tokens, width), np.float32)

    def work(_which: Ids, ids: Ids) -> Floats:
        return _finite(network(ids))

    for which, outputs in side_by_side(work, windows, width, context.threads, context.progress):
        hidden[windows.positions(which)] = outputs
    return hidden


def _finite(outputs: Array) -> Array:
    import numpy as np

    if not np.isfinite(outputs).all():
        raise StageError(
            "the unmodified model's own output has numbers that are not finite",
            fix="check the checkpoint: its weights, or its config, are wrong",
        )
    return outputs
