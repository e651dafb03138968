"""The unmodified model in torch: eager attention, float32, one thread a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "encoder": "AutoModel",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
}


class Network:
    """A checkpoint that is loaded once and called from several threads. task: one of those in CLASSES."""

    def __init__(self, directory: Path, task: str) -> None:
        import torch
        import transformers

        from .batches import return_freed_blocks

        return_freed_blocks()
        # Each batch has a core of its own (see batches.py), so an operation has no use for more.
        torch.set_num_threads(1)
        transformers.utils.logging.disable_progress_bar()
        self._task = task
        self._model: Any = getattr(transformers, CLASSES[task]).from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
        )
        self._model.eval()

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
            output = self._model(**given)
            found = output.last_hidden_state if self._task == "encoder" else output.logits
            result: Floats = found.numpy()
        return result
