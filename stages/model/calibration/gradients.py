"""Squared gradients over the calibration text, kept in the job's directory: see `fisher.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ....artifacts.digest import digest_json
from .calibrate import calibration_text, choose_device, shelf_of
from .fisher import Fisher
from .journal import Journal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...base import Context
    from ..checkpoint import Checkpoint


def squared_gradients(context: Context[Any], source: Checkpoint) -> Mapping[str, torch.Tensor]:
    """By linear map, the mean square of its outputs' gradients: float32 [out]; found once a job.

    The parameters are those of :class:`.calibrate.CalibratedParams`.  Raises DataError for a text that cannot
    be used.
    """
    params, folder = context.params, context.job / "gradients"
    folder.mkdir(exist_ok=True)
    samples = calibration_text(context, source)
    device = choose_device(params.device)
    fingerprint = digest_json({
        "samples": samples.digest, "seed": context.seed, "input": context.inputs["model"].digest,
        "device": str(device), "torch": torch.__version__,
    })  # fmt: skip
    journal = Journal(folder, fingerprint)
    if journal.resume()[0] == 0:
        fisher = Fisher(
            source.architecture,
            source.tensors,
            samples.batches,
            shelf_of(params, folder),
            device,
            context.threads,
            context.seed,
        )
        found = fisher.squares(context.progress)
        journal.save("gradients", {name: value.cpu().numpy() for name, value in found.items()}, {}, [])
    kept = journal.results()
    return {name: torch.from_numpy(kept.float32(name)) for name in kept.names()}
