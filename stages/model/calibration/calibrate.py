"""Calibration, for every stage that takes a text through the network: its parameters, and the walk itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....artifacts.digest import digest_json
from ....artifacts.errors import RequirementError
from ....artifacts.schema import param, to_plain
from ....targets.host import probe

if TYPE_CHECKING:
    import torch

    from ...base import Context
    from ..checkpoint import Checkpoint
    from .journal import Journal
    from .samples import Samples
    from .shelf import Shelf
    from .walk import Visitor

MB = 1_000_000
# Processors that multiply bfloat16 themselves; on others it is many times slower than float32.
BFLOAT16_ISA = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True)
class OptionalTextParams:
    """Parameters of every method that looks at a calibration text where there is one."""

    calibration: str | None = param(
        None, is_file=True, doc="text that statistics are taken of; the evaluation text never is"
    )
    samples: int = param(
        128, minimum=1, doc="windows of it, spread evenly; 128 are what the papers take, more gain little"
    )
    window: int = param(
        256, minimum=2, doc="tokens of a window, fewer where the context is shorter; 256 as in evaluation"
    )


@dataclass(frozen=True)
class TextParams(OptionalTextParams):
    """Parameters of every method that looks at a calibration text."""

    calibration: str = param(
        is_file=True, doc="text that statistics are taken of; the evaluation text never is"
    )


@dataclass(frozen=True)
class ComputeParams:
    """Parameters of how a text is taken through the network."""

    compute_dtype: str = param(
        "auto",
        choices=("auto", "float32", "bfloat16"),
        doc="of matrix products while calibrating; auto is bfloat16 where the processor has it in hardware, "
        "else float32; sums are float32 always",
    )
    device: str = param(
        "auto", choices=("auto", "cpu", "cuda"), doc="where it is computed; auto is a GPU where there is one"
    )
    activation_budget_mb: int = param(
        1024,
        minimum=0,
        in_key=False,
        doc="megabytes of activations held in memory; those past it lie in files of the job's directory",
    )


@dataclass(frozen=True)
class CalibratedParams(ComputeParams, TextParams):
    """Parameters of every method that takes the text through the network by itself."""


def calibrate(context: Context[Any], source: Checkpoint, visitor: Visitor, part: str = "") -> Journal:
    """Takes the calibration text past ``visitor`` and gives the record of what it made.

    part: what this walk is called where a job takes several; each is recorded by itself.

    Raises DataError for a text that cannot be used, StageError for activations that are not finite, and
    RequirementError for a device that is not here.
    """
    import torch

    from .journal import Journal
    from .walk import Walk

    params, model = context.params, source.architecture
    device = choose_device(params.device)
    dtype = choose_dtype(params.compute_dtype, device)
    samples = calibration_text(context, source)
    if samples.windows < params.samples:
        context.note(
            f"the calibration text has {samples.windows} windows, fewer than the {params.samples} asked for"
        )
    fingerprint = digest_json({
        "samples": samples.digest, "params": to_plain(params), "seed": context.seed,
        "input": context.inputs["model"].digest, "dtype": str(dtype), "torch": torch.__version__,
        "part": part,
    })  # fmt: skip
    directory = context.job / part
    directory.mkdir(exist_ok=True)
    journal = Journal(directory, fingerprint)
    shelf = shelf_of(params, context.job)
    walk = Walk(model, source.tensors, samples.batches, shelf, device, dtype, context.threads)
    walk.run(visitor, journal, context.progress)
    return journal


def calibration_text(context: Context[Any], source: Checkpoint) -> Samples:
    """The windows that the parameters ask for; raises DataError for a text that cannot be used."""
    from .samples import take

    params = context.params
    text = Path(params.calibration)
    return take(text, source.directory, source.architecture, params.window, params.samples)


def shelf_of(params: ComputeParams, directory: Path) -> Shelf:
    """What holds activations, within the parameters' budget; it spills into ``directory``."""
    from .shelf import Shelf

    return Shelf(params.activation_budget_mb * MB, directory)


def choose_device(wanted: str) -> torch.device:
    """The device to compute on; raises RequirementError for a GPU that is not here."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise RequirementError(
            "device: cuda was asked for, and torch sees no GPU here",
            fix="write device: auto, or install a torch with CUDA on a machine with an NVIDIA GPU",
        )
    return torch.device("cpu" if wanted == "cpu" or not torch.cuda.is_available() else "cuda")


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype of products."""
    import torch

    if wanted == "auto":
        is_fast = device.type == "cuda" or not BFLOAT16_ISA.isdisjoint(probe().isa)
        return torch.bfloat16 if is_fast else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32
