"""A checkpoint in torch, as transformers computes it: eager attention, float32, one thread a call."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import IntakeError
from .checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint
from .whole import Whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "encoder": "AutoModel",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
}


# Encoders are run for their last hidden state: a pooler without weights, as beside a trained head, will do.
UNUSED = ("pooler.",)


class Network:
    """A checkpoint that is loaded once and called from several threads; what is factored or shared, whole.

    task: one of those in CLASSES.  module: the model of transformers.  Raises IntakeError as
    :func:`load_module` does.
    """

    def __init__(self, directory: Path, task: str) -> None:
        import torch

        # Each batch has a core of its own, so an operation has no use for more.
        torch.set_num_threads(1)
        self._task = task
        self.module = load_module(directory, task)
        self.module.eval()

    def __call__(self, ids: Ids, sources: Ids | None = None) -> Floats:
        """ids [batch, length] → logits [batch, length, vocabulary], of an encoder the last hidden state.

        sources: what ids are targets of, [batch, source].
        """
        import torch

        given: dict[str, Any] = {"input_ids": torch.from_numpy(ids)}
        if sources is not None:
            given = {"input_ids": torch.from_numpy(sources), "decoder_input_ids": torch.from_numpy(ids)}
        if self._task != "encoder":
            given["use_cache"] = False
        with torch.inference_mode():
            output = self.module(**given)
            found = output.last_hidden_state if self._task == "encoder" else output.logits
            result: Floats = found.numpy()
        return result


def load_module(directory: Path, task: str, *, attention: str | None = "eager", dropout: bool = True) -> Any:
    """The model of transformers that a checkpoint holds, in float32; what is factored or shared, whole.

    task: one of those in CLASSES.  attention: an implementation; None is the one that transformers prefers.
    dropout: False trains without what the config drops. Raises IntakeError when the checkpoint lacks weights
    of the network, which transformers would fill with random numbers, or holds misshapen ones, and when
    transformers does not load it.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with _loadable(directory) as loadable:
        try:
            config = transformers.AutoConfig.from_pretrained(
                loadable, local_files_only=True, trust_remote_code=False
            )
            if not dropout:
                _without_dropout(config)
            module, found = getattr(transformers, CLASSES[task]).from_pretrained(
                loadable,
                config=config,
                dtype=torch.float32,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are refused below, all at once
                output_loading_info=True,
            )
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise IntakeError(
                f"transformers {transformers.__version__} does not load it: {reason}", where=str(directory)
            ) from error
    _check_complete(found, directory)
    return module


@contextmanager
def _loadable(directory: Path) -> Iterator[Path]:
    """A directory that transformers loads: the checkpoint's own, or for a while one with all layers whole."""
    whole = Whole.of(Checkpoint.open(directory))
    if not whole.compact:
        yield directory
        return
    with tempfile.TemporaryDirectory() as made:
        with (Path(made) / WEIGHTS_FILE).open("wb") as stream:
            whole.save(stream, lambda _done, _total, _name: None)
        (Path(made) / CONFIG_FILE).write_text(json.dumps(whole.config), "utf-8")
        yield Path(made)


def _without_dropout(config: Any) -> None:
    """Sets every probability of a config to drop something to zero."""
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def _check_complete(found: dict[str, Any], directory: Path) -> None:
    missing = [name for name in sorted(found["missing_keys"]) if not name.startswith(UNUSED)]
    shapes = sorted(str(entry[0]) for entry in found["mismatched_keys"])
    faults = [
        f"{label} {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for label, names in (("missing:", missing), ("wrong shape:", shapes))
        if names
    ]
    if faults:
        raise IntakeError(
            f"the weights do not fit config.json: {'; '.join(faults)}",
            where=str(directory),
            fix="check that config.json and the weights are of the same model",
        )
