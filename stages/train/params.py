"""The parameters that every stage which trains has, and what they need of the machine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ...artifacts.errors import RecipeError, nearest
from ...artifacts.schema import param
from ..base import Requirement

LENGTHS = ("steps", "epochs", "tokens")
SCHEDULES = ("cosine", "linear", "one-cycle", "constant")
PARALLEL = ("ddp", "fsdp")
DIVERGENCES = ("forward", "reverse", "js")
TRACKERS = ("tensorboard", "wandb", "mlflow")
# Of a process that a launcher started, the variable with its number.
RANK = "RANK"
GROUPED = ("learning_rate", "weight_decay")
# Distributions whose versions decide what training gives.
TOOLS = ("accelerate", "numpy", "safetensors", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class TrainParams:
    """Parameters of every stage that trains."""

    training: str | None = param(
        None, is_file=True, internal=True, doc="text that gives gradients, from data.training"
    )
    training_text: str | None = param(
        None,
        is_file=True,
        doc="text that gives gradients: plain, JSON lines, or chats, whose responses alone count; by default "
        "that of data.training",
    )
    selection: str | None = param(
        None, is_file=True, internal=True, doc="text that chooses, from data.selection"
    )
    selection_text: str | None = param(
        None,
        is_file=True,
        doc="text that chooses the best point; by default that of data.selection, else the last tenth of the "
        "training documents, which then do not train",
    )
    learning_rate: float = param(
        1e-4,
        minimum=0.0,
        doc="the highest of the run; 1e-4 recovers what pruning lost without unlearning, five times that "
        "made models worse than not training",
    )
    steps: int | None = param(None, minimum=1, doc="optimizer steps; one of steps, epochs and tokens")
    epochs: float | None = param(
        None, minimum=0.0, doc="times through the training text; 1 where neither steps nor tokens are given"
    )
    tokens: int | None = param(None, minimum=1, doc="tokens to train on, in place of steps or epochs")
    batch_size: int = param(
        8,
        minimum=1,
        doc="windows of one optimizer step, over all processes; small, as texts for recovery are",
    )
    accumulation: int = param(
        1,
        minimum=1,
        doc="parts that a process computes its share of a batch in: less memory, the same gradients",
    )
    processes: int = param(
        1,
        minimum=1,
        doc="processes of this machine that share every batch, on a GPU each where there are as many; "
        "gradients are those of one",
    )
    parallel: str = param(
        "ddp",
        choices=PARALLEL,
        doc="what processes hold: ddp all weights each, the faster; fsdp a share of weights, gradients and "
        "optimizer each, for models that one GPU does not hold",
    )
    window: int = param(
        256, minimum=2, doc="tokens of a window, fewer where the context is shorter; 256 as in evaluation"
    )
    schedule: str = param(
        "cosine", choices=SCHEDULES, doc="of the learning rate behind the warm-up; cosine ends near zero"
    )
    warmup: float = param(
        0.05,
        minimum=0.0,
        maximum=1.0,
        doc="share of the steps in which the learning rate rises to its height",
    )
    weight_decay: float = param(
        0.0, minimum=0.0, doc="of matrices, per unit of learning rate; none, since recovery is short"
    )
    betas: tuple[float, ...] = param(
        (0.9, 0.95), doc="of AdamW's two means; the second forgets faster than usual, as runs are short"
    )
    max_grad_norm: float = param(
        1.0, minimum=0.0, doc="gradients are scaled down to this norm of all together; 0 leaves them"
    )
    ema_decay: float = param(
        0.0,
        minimum=0.0,
        maximum=1.0,
        doc="of a running mean of the weights, which is then what is chosen from and written; 0 takes none",
    )
    precision: str = param(
        "auto",
        choices=("auto", "fp32", "bf16"),
        doc="of matrix products; auto is bf16 where the processor has it in hardware, else fp32; weights and "
        "optimizer are float32 always",
    )
    device: str = param(
        "auto", choices=("auto", "cpu", "cuda"), doc="where it is computed; auto is a GPU where there is one"
    )
    gradient_checkpointing: bool = param(
        False,
        doc="compute blocks again on the way back instead of keeping what they gave: less memory, slower",
    )
    dropout: bool = param(
        False, doc="drop what the config says; off, since few steps are no danger and noise slows them"
    )
    groups: Mapping[str, Mapping[str, object]] | None = param(
        None,
        doc="pattern of parameters → learning_rate or weight_decay of theirs, such as "
        '{"*.embed_tokens.*": {learning_rate: 1e-5}}; the last pattern that matches has the last word',
    )
    freeze: tuple[str, ...] = param((), doc="patterns of parameters that stay as they are")
    keep_zeros: bool = param(True, doc="zeros of pruned weights stay zero; false lets them grow back")
    evaluate_every: int | None = param(
        None, minimum=1, doc="steps between measurements of the selection loss; by default a tenth of all"
    )
    patience: int | None = param(
        None,
        minimum=1,
        doc="stop after so many measurements without a better one; by default never: the best point is "
        "returned anyway",
    )
    selection_windows: int = param(
        64, minimum=1, doc="windows that the selection loss is measured on, spread evenly; more gain little"
    )
    log_to: str | None = param(
        None, choices=TRACKERS, in_key=False, doc="also log losses and speed to a tracker that is installed"
    )
    log_directory: str | None = param(
        None,
        is_folder=True,
        in_key=False,
        doc="where the tracker's files go: TensorBoard's events, an offline run for wandb sync, or mlflow.db",
    )

    def __post_init__(self) -> None:
        """Raises RecipeError where no text is named, and for values that do not go together."""
        if self.training is None and self.training_text is None:
            raise RecipeError(
                "there is no training text", fix="name one: training_text: FILE, or data: {training: FILE}"
            )
        given = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(given) > 1:
            raise RecipeError(
                f"{' and '.join(given)} are two lengths of one run", fix="leave one of them out"
            )
        if self.epochs == 0 or self.learning_rate == 0:
            name = "epochs" if self.epochs == 0 else "learning_rate"
            raise RecipeError(f"{name}: 0 trains nothing", fix="leave the stage out")
        if len(self.betas) != 2 or not all(0 <= each < 1 for each in self.betas):
            raise RecipeError(f"betas: {list(self.betas)} are not two numbers from 0 and below 1")
        if self.ema_decay == 1:
            raise RecipeError("ema_decay: 1 never moves", fix="0.99 averages the last hundred steps")
        if self.parallel == "fsdp" and self.processes == 1 and RANK not in os.environ:
            what = "parallel: fsdp has no effect on one process"
            raise RecipeError(what, fix="write processes: 2 or more, or leave it out")
        parts = self.accumulation * self.processes
        if parts > self.batch_size:
            name = "accumulation" if self.processes == 1 else "accumulation and processes"
            what = f"{name}: {parts} parts of a batch of {self.batch_size} windows"
            raise RecipeError(what, fix="a part is a window at least")
        if self.log_directory is not None and self.log_to is None:
            raise RecipeError("log_directory has no effect", fix="name a tracker: log_to: tensorboard")
        if self.log_to is not None and self.log_directory is None:
            raise RecipeError(
                f"log_to: {self.log_to} has no directory to write to", fix="name one: log_directory: logs"
            )
        for pattern, changes in (self.groups or {}).items():
            _check_group(pattern, changes)

    @property
    def text(self) -> str:
        """The file that gives gradients."""
        return str(self.training_text or self.training)

    @property
    def chooser(self) -> str | None:
        """The file that chooses; None for a share of the training text."""
        return self.selection_text or self.selection


@dataclass(frozen=True)
class TaughtParams(TrainParams):
    """Parameters of every stage that trains, or may train, against a teacher's predictions."""

    teacher: str | None = param(
        None, doc="who teaches: a node of the recipe, such as load, a directory, or org/name@revision"
    )
    divergence: str = param(
        "forward",
        choices=DIVERGENCES,
        doc="between predictions: forward KL, which covers all that the teacher does; reverse, "
        "which keeps to what it does most; or js, between the two",
    )
    temperature: float = param(
        2.0,
        minimum=0.05,
        doc="logits are divided by it; above 1 unlikely tokens count more, and a token teaches more: at 2 a "
        "fiftieth more of what pruning lost came back than at 1",
    )
    alpha: float = param(
        1.0,
        minimum=0.0,
        maximum=1.0,
        doc="share of the teacher in the loss, the rest is the text's own next tokens; all of it, since a "
        "short text teaches less than its teacher",
    )
    top_k: int = param(
        0,
        minimum=0,
        doc="likeliest tokens of the teacher that are kept on disk, and the mass of others, so that it "
        "runs once over a text that is seen several times; 0 takes whole distributions, computed every time",
    )


def _check_group(pattern: str, changes: Mapping[str, object]) -> None:
    for name, value in changes.items():
        if name not in GROUPED:
            guess = nearest(name, GROUPED)
            fix = f"did you mean {guess}?" if guess else f"write {' or '.join(GROUPED)}"
            raise RecipeError(f"groups.{pattern}.{name} is not a known name", fix=fix)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise RecipeError(f"groups.{pattern}.{name}: {value!r} is not a number from 0")
    if not changes:
        raise RecipeError(f"groups.{pattern} changes nothing", fix=f"write {' or '.join(GROUPED)}")


def requirements(params: TrainParams) -> tuple[Requirement, ...]:
    """The tracker that is asked for."""
    if params.log_to is None:
        return ()
    found = importlib.util.find_spec(params.log_to) is not None
    return (Requirement(params.log_to, found, f"pip install {params.log_to}"),)
