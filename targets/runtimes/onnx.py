"""ONNX artifacts through onnxruntime on the CPU: opened, run in one go or step by step, and generating text.

Keys and values go from step to step as the arrays that onnxruntime returned. It hands them out and takes them
back without a copy, so IO binding brings nothing on a CPU (measured: equal within noise, and slower by its
calls on models of a few million parameters).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError, RequirementError, StageError
from ..host import physical_cores
from . import sampling as sampling_rules
from .base import Cache, Sampling, SessionInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

SCHEMA = "ingot/session/v1"
DESCRIPTION = "ingot.json"
MODEL_FILE = "model.onnx"
CAUSAL, ENCODER = "causal-lm", "encoder"
# Masked out wherever it stands, so any id that every embedding has will do.
PADDING = 0


def open(path: Path, *, threads: int | None = None) -> OnnxSession:  # noqa: A001 - runtimes.onnx.open is its name
    """The artifact or delivery in a directory as a session; all physical cores unless ``threads`` says fewer.

    Raises InputError when the directory holds no ONNX artifact or its graph cannot be opened, and
    RequirementError when onnxruntime is missing or older than the graph needs.
    """
    about = _description(path)
    runtime = _onnxruntime(about)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or physical_cores()
    options.log_severity_level = 3
    for name, value in about.get("session_options", {}).items():
        options.add_session_config_entry(name, value)
    try:
        session = runtime.InferenceSession(
            str(path / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # noqa: BLE001 - onnxruntime has one exception type for each status code
        raise InputError(
            f"onnxruntime cannot open the graph: {_first_line(error)}",
            where=str(path / MODEL_FILE),
            fix="check the files with `ingot verify`, or build the artifact again",
        ) from None
    return OnnxSession(session, about, runtime.__version__)


def _description(path: Path) -> dict[str, Any]:
    place = path / DESCRIPTION
    if not place.is_file():
        raise InputError(
            f"there is no {DESCRIPTION}",
            where=str(path),
            fix="give a delivery's directory, or an artifact of kind onnx",
        )
    try:
        about = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{DESCRIPTION} is not JSON: {error}", where=str(place)) from None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA or about.get("format") != "onnx":
        raise InputError(f"{DESCRIPTION} does not describe an ONNX session of {SCHEMA}", where=str(place))
    if about.get("task") not in (CAUSAL, ENCODER):
        raise InputError(
            f"a session runs models of the tasks {CAUSAL} and {ENCODER}, not {about.get('task')}",
            where=str(place),
        )
    return about


def _onnxruntime(about: Mapping[str, Any]) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise RequirementError("onnxruntime is missing", fix="pip install onnxruntime") from None
    wanted = str(about.get("requires", {}).get("onnxruntime", ""))
    lowest = re.search(r">=\s*(\d+)\.(\d+)", wanted)
    have = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if lowest and have < (int(lowest[1]), int(lowest[2])):
        raise RequirementError(
            f"the graph needs onnxruntime {wanted}, and this is {onnxruntime.__version__}",
            fix=f"pip install 'onnxruntime{wanted}'",
        )
    return onnxruntime


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class OnnxSession:
    """An open graph; follows :class:`ingot.targets.runtimes.base.Session`.

    Calls may come from several threads. Raises InputError for ids outside the vocabulary, sequences longer
    than the model's context, and shapes that do not fit; StageError when onnxruntime fails.
    """

    def __init__(self, session: Any, about: Mapping[str, Any], version: str) -> None:
        self._session = session
        self._inputs = frozenset(node.name for node in session.get_inputs())
        outputs = [node.name for node in session.get_outputs()]
        self._result = outputs[0]
        self._logits_from = about.get("logits_from")
        self._cache = _cache_names(about) if about["task"] == CAUSAL else {}
        self._info = SessionInfo(
            task=str(about["task"]),
            layers=int(about["layers"]),
            hidden=int(about["hidden"]),
            kv_heads=int(about["kv_heads"]),
            head_dim=int(about["head_dim"]),
            vocabulary=int(about["vocabulary"]),
            context=int(about["context"]),
            bos_id=about.get("bos_id"),
            eos_ids=tuple(about.get("eos_ids") or ()),
            pad_id=about.get("pad_id"),
            runtime="onnxruntime",
            runtime_version=version,
        )

    @property
    def info(self) -> SessionInfo:
        """What was opened."""
        return self._info

    def logits(self, input_ids: Ids, attention_mask: Ids | None = None) -> Floats:
        """See :meth:`Session.logits`; keys and values are not fetched."""
        feeds = self._feeds(input_ids, attention_mask, None)
        result: Floats = self._run([self._result], feeds)[0]
        return result

    def step(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        past: Cache | None = None,
        logits_from: int = 0,
    ) -> tuple[Floats, Cache]:
        """See :meth:`Session.step`; raises InputError for an encoder, which has no cache."""
        if self._info.task != CAUSAL:
            raise InputError("an encoder has no past to step from", fix="use logits")
        import numpy as np

        feeds = self._feeds(input_ids, attention_mask, past)
        if self._logits_from:
            feeds[self._logits_from] = np.array([logits_from], np.int64)
        result, *present = self._run([self._result, *self._cache.values()], feeds)
        if not self._logits_from:
            result = result[:, logits_from:]
        length = (past.length if past else 0) + input_ids.shape[1]
        return result, Cache(dict(zip(self._cache, present, strict=True)), length)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """See :meth:`Session.generate`.

        A row ends before an end-of-sequence token, after max_new_tokens, or when the context is full. Each
        row draws from its own random stream, so what else is in the batch does not change it. Raises
        InputError for an empty prompt and for one that leaves no room in the context.
        """
        new: list[list[int]] = [[] for _ in prompts]
        if prompts:
            for row, token in self._generated(prompts, sampling):
                new[row].append(token)
        return new

    def close(self) -> None:
        """Frees onnxruntime's memory; the session cannot be used afterwards."""
        self._session = None

    def _generated(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[tuple[int, int]]:
        """(row, token) in the order in which tokens are chosen."""
        import numpy as np

        sampling_rules.check(sampling)
        ids, mask = self._left_padded(prompts)
        room = np.array([self._info.context - len(prompt) for prompt in prompts])
        streams = [np.random.default_rng((sampling.seed, row)) for row in range(len(prompts))]
        running = np.ones(len(prompts), bool)
        past: Cache | None = None
        for count in range(1, sampling.max_new_tokens + 1):
            logits, past = self.step(ids, mask, past, logits_from=-1)
            draws = np.array([stream.random() for stream in streams])
            tokens = sampling_rules.next_tokens(logits[:, -1], sampling, draws)
            running &= ~np.isin(tokens, self._info.eos_ids)
            yield from ((int(row), int(tokens[row])) for row in np.flatnonzero(running))
            running &= room > count
            if not running.any():
                return
            # An ended row goes on beside the others; its columns are masked, so its length no longer counts.
            ids = np.where(running, tokens, PADDING)[:, None]
            mask = np.concatenate([mask, running[:, None].astype(np.int64)], axis=1)

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
        """Prompts as ids and mask [batch, longest], padded on the left."""
        import numpy as np

        longest = max(len(prompt) for prompt in prompts)
        ids = np.full((len(prompts), longest), PADDING, np.int64)
        mask = np.zeros((len(prompts), longest), np.int64)
        for row, prompt in enumerate(prompts):
            if not prompt:
                raise InputError(f"prompt {row + 1} is empty", fix="give at least one token")
            if len(prompt) >= self._info.context:
                raise InputError(
                    f"prompt {row + 1} has {len(prompt)} tokens, the model's context {self._info.context}",
                    fix=f"give at most {self._info.context - 1}, so that one can follow",
                )
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        return ids, mask

    def _feeds(self, input_ids: Ids, attention_mask: Ids | None, past: Cache | None) -> dict[str, Any]:
        import numpy as np

        length = past.length if past else 0
        if input_ids.ndim != 2 or input_ids.size == 0:
            raise InputError(f"input_ids have the shape {list(input_ids.shape)}, not [batch, sequence]")
        batch, new = input_ids.shape
        mask = np.ones((batch, length + new), np.int64) if attention_mask is None else attention_mask
        if mask.shape != (batch, length + new):
            raise InputError(f"attention_mask has the shape {list(mask.shape)}, not {[batch, length + new]}")
        low, high = int(input_ids.min()), int(input_ids.max())
        if low < 0 or high >= self._info.vocabulary:
            raise InputError(
                f"token id {low if low < 0 else high} is outside the vocabulary of {self._info.vocabulary}"
            )
        # Positions count from the first unmasked token; those of padding itself do not matter.
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, length:]
        if int(positions.max()) >= self._info.context:
            raise InputError(
                f"{int(positions.max()) + 1} tokens are more than the model's context of {self._info.context}"
            )
        feeds = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
        feeds = {name: np.ascontiguousarray(value, np.int64) for name, value in feeds.items()}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros((batch, new), np.int64)
        feeds.update(past.tensors if past else self._empty(batch))
        return {name: value for name, value in feeds.items() if name in self._inputs}

    def _empty(self, batch: int) -> dict[str, Any]:
        import numpy as np

        nothing = np.zeros((batch, self._info.kv_heads, 0, self._info.head_dim), np.float32)
        return dict.fromkeys(self._cache, nothing)

    def _run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        if self._session is None:
            raise StageError("the session is closed")
        try:
            results: list[Any] = self._session.run(outputs, feeds)
        except Exception as error:  # noqa: BLE001 - onnxruntime has one exception type for each status code
            raise StageError(f"onnxruntime failed: {_first_line(error)}") from None
        return results


def _cache_names(about: Mapping[str, Any]) -> dict[str, str]:
    """Graph inputs of past keys and values, and the outputs that become them in the next step."""
    names = [(layer, part) for layer in range(int(about["layers"])) for part in ("key", "value")]
    return {
        about["past"].format(layer=layer, part=part): about["present"].format(layer=layer, part=part)
        for layer, part in names
    }
