"""`validate.emulated_arm`: an artifact through ARM kernels, on emulated processors, before any device.

What it finds: that the artifact loads and runs there, that its predictions are as good as through this host's
kernels, how many instructions a token takes, and what memory its process holds. Time under an emulator says
nothing of a device's and is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import RecipeError, StageError
from ...artifacts.schema import param
from ...targets.emulated.sandbox import DECODED_TOKENS, FIX, PROCESSORS, installed
from ..base import Context, Requirement, Result, stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from ...targets.emulated.sandbox import Ran
    from ..model.logits_store import Logits

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

MODEL_FILE = "model.onnx"


@dataclass(frozen=True)
class EmulatedParams:
    """Parameters of `validate.emulated_arm`."""

    processors: tuple[str, ...] = param(
        ("cortex-a53", "cortex-a76"),
        doc="processors that are emulated; one without and one with the integer dot product choose other "
        "kernels",
    )
    tokens: int = param(
        512,
        minimum=2,
        doc="tokens of the evaluation text's first windows, one window at least; emulation is hundreds of "
        "times slower than this host",
    )
    tolerance_percent: float = param(
        0.5,
        minimum=0,
        doc="how far perplexity (of encoders: the cosine) may be from that through the host's kernels, "
        "which sum in another order, and some of which round activations where the others do not",
    )
    limit_seconds: int = param(1800, minimum=1, doc="after which a processor's run is ended; a hung one ends")

    def __post_init__(self) -> None:
        """Raises RecipeError for a processor that is not known."""
        for name in self.processors:
            if name not in PROCESSORS:
                known = ", ".join(PROCESSORS)
                raise RecipeError(f"emulated.processors: {name!r} is not one of {known}")


def requirements(_params: EmulatedParams) -> tuple[Requirement, ...]:
    """The sandbox; where it is missing the target is unverified."""
    return (Requirement("the emulation of ARM processors", installed() is not None, FIX, is_device=True),)


def versions(_params: EmulatedParams) -> Mapping[str, str | None]:
    """What runs in the sandbox."""
    return {f"emulated {name}": version for name, version in (installed() or {}).items()}


@stage(
    "validate.emulated_arm",
    params=EmulatedParams,
    inputs={"artifact": ("executorch", "onnx"), "reference": ("logits",)},
    output="measurements",
    version=1,
    determinism="nondeterministic",
    tools=("numpy",),
    summary="An artifact on emulated ARM processors: quality, instructions a token, memory, that it runs",
    requires=requirements,
    versions=versions,
    any_architecture=True,
    takes_compact=True,
)
def run(context: Context[EmulatedParams]) -> Result:
    """Writes measurements with an entry `emulated` for each processor.

    Instructions are counted by a plugin of the emulator, those of whole windows and those of single tokens
    apart. peak_memory_bytes is of the whole process, the emulator's translated code included. Raises
    StageError when the artifact does not run there, when its output is not finite, and when its score
    is further from the host's than the tolerance.
    """
    from ...targets.emulated import sandbox
    from ...targets.runtimes.opening import open_session, read_session
    from ..model import logits_store
    from . import measures

    reference = logits_store.read(context.inputs["reference"].path)
    if reference.sources is not None:
        raise StageError("an encoder-decoder has no emulated run")
    artifact = context.inputs["artifact"].path
    windows = _windows(reference, context.params.tokens)
    session: Any = open_session(artifact, threads=1)
    try:
        info = session.info
        host = _score(reference, [session.logits(ids[None])[0] for ids in windows], windows)
    finally:
        session.close()
    model = artifact / str(read_session(artifact).get("file", MODEL_FILE))
    given, output = context.job / "windows.bin", context.job / "results.bin"
    _write(given, windows)
    found: dict[str, dict[str, object]] = {}
    for number, name in enumerate(context.params.processors):
        context.progress(number, len(context.params.processors), f"emulating {name}")
        ran = sandbox.run(model, given, output, info.task, name, context.params.limit_seconds)
        score = _score(reference, _read(output, windows), windows)
        found[name] = _entry(ran, score, windows, info.task)
        _check(name, score, host, context.params.tolerance_percent)
    metric = "cosine" if info.task == "encoder" else "perplexity"
    tokens = sum(map(len, windows))
    better, comparison = ("higher", "absolute") if info.task == "encoder" else ("lower", "relative")
    worst = (max if better == "lower" else min)(float(str(each[metric])) for each in found.values())
    expected = 1.0 if info.task == "encoder" else _expected(reference, windows)
    document = {
        "metrics": {
            metric: measures.metric("", better, comparison, expected, worst, n=len(windows), tokens=tokens)
        },
        "emulated": found,
        "host": {metric: host},
        "data": {**reference.facts(), "tokens": tokens},
        "environment": {"runtime": info.runtime, **{k: str(v) for k, v in (installed() or {}).items()}},
    }
    measures.write(context.output, "emulated", info.task, document, {})
    return Result(facts={"measures": "emulated", **reference.facts()})


def _windows(reference: Logits, tokens: int) -> list[Ids]:
    """The first windows of the evaluation text that together have at most so many tokens, one at least."""
    windows, count = reference.windows, 0
    found: list[Ids] = []
    for start, length in zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True):
        if found and count + length > tokens:
            break
        ids = windows.ids[start : start + length]
        found.append(ids if length <= tokens else ids[:tokens])
        count += len(found[-1])
    return found


def _score(reference: Logits, outputs: Sequence[Floats], windows: Sequence[Ids]) -> float:
    """Perplexity of the windows, or for an encoder the mean cosine with the reference's hidden states."""
    import math

    import numpy as np

    from ..model.logits import Softmax
    from .scores import mean_cosine

    if reference.hidden is not None:
        starts = reference.windows.starts
        sums = [
            mean_cosine(reference.hidden[start : start + len(ids)], output) * len(ids)
            for start, ids, output in zip(starts, windows, outputs, strict=False)
        ]
        return float(sum(sums) / sum(map(len, windows)))
    losses = [
        Softmax.of(output[:-1]).nll(ids[1:]).astype(np.float64).sum()
        for ids, output in zip(windows, outputs, strict=True)
    ]
    return math.exp(sum(losses) / sum(len(ids) - 1 for ids in windows))


def _expected(reference: Logits, windows: Sequence[Ids]) -> float:
    """The reference's own perplexity on those windows."""
    import math

    if reference.nll is None:
        raise StageError("the reference holds no predictions")
    starts = (reference.windows.starts - range(reference.windows.count)).tolist()
    sums = [
        float(reference.nll[start : start + len(ids) - 1].sum())
        for start, ids in zip(starts, windows, strict=False)
    ]
    return math.exp(sum(sums) / sum(len(ids) - 1 for ids in windows))


def _entry(ran: Ran, score: float, windows: Sequence[Ids], task: str) -> dict[str, object]:
    tokens = sum(map(len, windows))
    (whole, dots), *rest = ran.counts
    entry: dict[str, object] = {
        "cosine" if task == "encoder" else "perplexity": score,
        "instructions_per_token": round(whole / tokens),
        "dot_products_per_token": round(dots / tokens),
        "peak_memory_bytes": ran.peak_bytes,
        "grown_memory_bytes": ran.grown_bytes,
    }
    if task == "causal-lm" and rest:
        entry["decode_instructions_per_token"] = round(rest[0][0] / min(DECODED_TOKENS, len(windows[0])))
    return entry


def _check(name: str, score: float, host: float, tolerance_percent: float) -> None:
    """Raises StageError for a score that is not finite, or further from the host's than the tolerance."""
    import math

    if not math.isfinite(score) or abs(score / host - 1) > tolerance_percent / 100:
        raise StageError(
            f"on an emulated {name} the artifact scores {score:.6g}, through this host's kernels {host:.6g}, "
            f"which is more than {tolerance_percent:g} % apart",
            fix="compare their outputs on the first window: one of them computes something else",
        )


def _write(path: Path, windows: Sequence[Ids]) -> None:
    import numpy as np

    parts = [part for ids in windows for part in (np.array([len(ids)], np.int64), ids.astype(np.int64))]
    np.concatenate(parts).tofile(path)


def _read(path: Path, windows: Sequence[Ids]) -> list[Floats]:
    """Results [tokens, width] of each window."""
    import numpy as np

    values: Floats = np.fromfile(path, np.float32)
    ends = np.cumsum([len(ids) for ids in windows])
    return np.split(values.reshape(int(ends[-1]), -1), ends[:-1].tolist())
