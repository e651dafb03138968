"""`validate.reference`: what the unmodified model predicts for the evaluation text, in torch at full
precision.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...artifacts.errors import DataError, StageError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from . import golden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

    from ..model.families import Architecture
    from ..model.logits import TopK
    from ..model.logits_store import Logits, Rows
    from ..model.tokens import Windows

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]
    Array = TypeVar("Array", Floats, Doubles)
    Forward = Callable[[Ids], Floats]


TASKS = ("causal-lm", "encoder")


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
    from ..model.text import parse_documents

    directory = context.inputs["model"].path
    model = Checkpoint.open(directory).architecture
    if model.task not in TASKS:
        raise StageError(f"a model of the task {model.task} cannot be measured, only {' and '.join(TASKS)}")
    path = Path(context.params.evaluation)
    data = _read(path)
    windows = sample(parse_documents(data, str(path)), directory, model, context.params, str(path))
    started = time.perf_counter()
    forward = _load(directory, model)
    loaded = time.perf_counter()
    logits = _evaluate(context, forward, model, windows, digest_bytes(data))
    seconds = time.perf_counter() - loaded
    logits_store.write(logits, context.output)
    if model.task == "causal-lm":
        golden.write(_continuations(context, forward, model, directory), context.output)
    observed = {
        "load_seconds": round(loaded - started, 3),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(windows.tokens / seconds),
    }
    return Result(facts=logits.facts(), observed=observed)


def _continuations(
    context: Context[ReferenceParams], forward: Forward, model: Architecture, directory: Path
) -> Iterator[golden.Continuation]:
    """How the model goes on from each prompt that its context has room for; a note tells of the others."""
    from ..model.tokens import load_tokenizer

    tokenizer = load_tokenizer(directory)
    for prompt in context.params.prompts:
        ids = tokenizer.encode(prompt).ids
        if not 0 < len(ids) < model.context:
            context.note(
                f"the prompt {prompt!r} of {len(ids)} tokens is left out: the context has {model.context}"
            )
            continue
        tokens = min(context.params.new_tokens, model.context - len(ids))
        yield golden.continued(forward, prompt, ids, tokens)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the evaluation text cannot be read: {error.strerror}", where=str(path)) from None


def sample(
    documents: list[str], directory: Path, model: Architecture, params: ReferenceParams, where: str
) -> Windows:
    """The windows that are measured; raises DataError for a text of fewer tokens than one window has."""
    from ..model.tokens import check_vocabulary, encode, load_tokenizer, windows, wrapped_windows

    tokenizer = load_tokenizer(directory)
    width = min(params.window, model.context)
    if model.task == "causal-lm":
        found = windows(encode(tokenizer, documents), width)
    else:
        found = wrapped_windows(tokenizer, documents, width)
    if found.tokens < width:
        raise DataError(
            f"the evaluation text has {found.tokens} tokens, fewer than one window of {width}",
            where=where,
            fix="give a longer text; a verdict needs hundreds of windows",
        )
    check_vocabulary(found, model.vocabulary)
    return found.first(params.max_tokens) if params.max_tokens else found


def _load(directory: Path, model: Architecture) -> Forward:
    """The model in eager float32 as a function: ids [batch, length] → logits or last hidden state."""
    import torch
    import transformers

    from .batches import return_freed_blocks

    return_freed_blocks()
    # Each batch has a core of its own (see batches.py), so an operation has no use for more.
    torch.set_num_threads(1)
    causal = model.task == "causal-lm"
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    transformers.utils.logging.disable_progress_bar()
    network: Any = kind.from_pretrained(
        directory,
        dtype=torch.float32,
        attn_implementation="eager",
        use_safetensors=True,
        local_files_only=True,
    )
    network.eval()
    options = {"use_cache": False} if causal else {}

    def forward(ids: Ids) -> Floats:
        with torch.inference_mode():
            output = network(input_ids=torch.from_numpy(ids), **options)
            result: Floats = (output.logits if causal else output.last_hidden_state).numpy()
        return result

    return forward


def _evaluate(
    context: Context[ReferenceParams], forward: Forward, model: Architecture, windows: Windows, digest: str
) -> Logits:
    from ..model.logits_store import Logits

    width = min(context.params.window, model.context)
    found = Logits(model.task, width, model.vocabulary, digest, windows, _parity(forward, model))
    if model.task == "causal-lm":
        nll, top = _predictions(context, forward, model.vocabulary, windows)
        return replace(found, nll=nll, top=top)
    return replace(found, hidden=_hidden(context, forward, model.hidden, windows))


def _predictions(
    context: Context[ReferenceParams], forward: Forward, vocabulary: int, windows: Windows
) -> tuple[Floats, TopK]:
    """Losses and likeliest tokens of all predictions."""
    import numpy as np

    from ..model.logits import TopK
    from .batches import side_by_side
    from .scores import predictions

    k = min(context.params.top_k, vocabulary)
    count = windows.tokens - windows.count
    nll = np.empty(count, np.float32)
    top = TopK(np.empty((count, k), np.int32), np.empty((count, k), np.float32), np.empty(count, np.float32))

    def work(_which: Ids, ids: Ids) -> list[tuple[Doubles, TopK]]:
        kept = [predictions(logits, row, k) for logits, row in zip(forward(ids), ids, strict=True)]
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


def _hidden(context: Context[ReferenceParams], forward: Forward, width: int, windows: Windows) -> Floats:
    """The last hidden state of all tokens."""
    import numpy as np

    from .batches import side_by_side

    hidden = np.empty((windows.tokens, width), np.float32)

    def work(_which: Ids, ids: Ids) -> Floats:
        return _finite(forward(ids))

    for which, outputs in side_by_side(work, windows, width, context.threads, context.progress):
        hidden[windows.positions(which)] = outputs
    return hidden


def _parity(forward: Forward, model: Architecture) -> Rows:
    """What the model gives for the parity inputs, each row alone."""
    import numpy as np

    from ..model.logits_store import Rows
    from .parity import inputs

    rows = inputs(model.vocabulary, model.context)
    outputs = [_finite(forward(row[None]))[0] for row in rows]
    return Rows(np.concatenate(rows), np.array([len(row) for row in rows], np.int64), np.concatenate(outputs))


def _finite(outputs: Array) -> Array:
    import numpy as np

    if not np.isfinite(outputs).all():
        raise StageError(
            "the unmodified model's own output has numbers that are not finite",
            fix="check the checkpoint: its weights, or its config, are wrong",
        )
    return outputs
