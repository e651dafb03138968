"""Fixtures for exports: checkpoints written by hand in the quantized form, and the stage itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.manifest import Artifact, ArtifactRecord
from ingot.artifacts.schema import build
from ingot.artifacts.store import Store
from ingot.stages import base
from ingot.stages.base import Context, Result

if TYPE_CHECKING:
    import numpy.typing as npt

Export = Callable[..., "Exported"]


@dataclass(frozen=True)
class Exported:
    """What the stage made of a directory."""

    directory: Path
    result: Result


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Runs a stage: ``(directory, kind="checkpoint", stage="export.onnx", **params) -> Exported``."""
    store = Store.open(tmp_path_factory.mktemp("store"))

    def make(
        directory: Path, kind: str = "checkpoint", stage: str = "export.onnx", **params: object
    ) -> Exported:
        run = base.get(stage)
        source = Artifact("0" * 64, ArtifactRecord(kind, (), {}), directory)
        with store.outbox() as outbox:
            context = Context(
                params=build(run.params, params),
                inputs={"model": source},
                output=outbox,
                job=directory,
                seed=0,
                threads=1,
                progress=lambda done, total, what: None,
                note=lambda text: None,
            )
            result = run.run(context)
            return Exported(outbox.publish("onnx", result.facts).path, result)

    return make


def round_to_grid(
    weight: npt.NDArray[np.float32], bits: int, group: int, sym: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Round to nearest in plain loops over groups: codes [out, in], scales and zeros [out, groups]."""
    rows, columns = weight.shape
    size = group or columns
    starts = range(0, columns, size)
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty((rows, len(starts)), np.float32)
    zeros = np.empty((rows, len(starts)), np.uint8)
    top = 2**bits - 1
    for index, start in enumerate(starts):
        part = weight[:, start : start + size]
        if sym:
            scale, zero = np.abs(part).max(1) / (2 ** (bits - 1)), np.full(rows, 2.0 ** (bits - 1))
        else:
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            scale = (high - low) / top
            zero = np.round(-low / scale)
        scales[:, index], zeros[:, index] = scale, zero
        codes[:, start : start + size] = np.clip(np.round(part / scale[:, None] + zero[:, None]), 0, top)
    return codes, scales, zeros


def quantize(
    source: Path,
    target: Path,
    names: Mapping[str, Mapping[str, Any]],
) -> dict[str, npt.NDArray[np.float32]]:
    """Writes ``source`` to ``target`` in the quantized form; returns the dequantized weights by name.

    names: for each weight to quantize its bits, group_size, sym, activation and stored_in_out.
    """
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    record: dict[str, dict[str, Any]] = {}
    restored: dict[str, npt.NDArray[np.float32]] = {}
    for name, given in names.items():
        form = {"group_size": 0, "sym": True, "activation": "none", "stored_in_out": False, **given}
        weight = tensors.pop(name)
        weight = np.ascontiguousarray(weight.T) if form["stored_in_out"] else weight
        codes, scales, zeros = round_to_grid(weight, form["bits"], form["group_size"], form["sym"])
        tensors |= {f"{name}.codes": codes, f"{name}.scales": scales, f"{name}.zeros": zeros}
        record[name] = {**form, "shape": list(weight.shape)}
        group = np.arange(weight.shape[1]) // (form["group_size"] or weight.shape[1])
        values = (codes.astype(np.float32) - zeros[:, group]) * scales[:, group]
        restored[name] = values.T if form["stored_in_out"] else values
    save_file(tensors, target / "model.safetensors")
    document = {"schema": "ingot/quantization/v1", "method": "by hand", "weights": record, "transforms": []}
    (target / "quantization.json").write_text(json.dumps(document))
    return restored


def save(class_name: str, config_name: str, values: dict[str, Any], directory: Path) -> None:
    """Writes a model of transformers with random weights; biases and norms are not what they start as."""
    import torch
    import transformers

    torch.manual_seed(len(class_name))
    model = getattr(transformers, class_name)(getattr(transformers, config_name)(**values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
