"""One row of a benchmark of quantizers, pruning or training: stages run in a process of their own, measured.

    python tests/bench/quantize_rows.py JOB      # runs the stages that the file names, and writes the row

The weights that come out are measured in torch. Seconds are the stages' own: of the processor, in all its
threads, imports left out. Those of another library's stage are of the quantization alone, as its driver takes
them; loading and saving are left out there, not here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ingot.artifacts.digest import digest_json
from ingot.artifacts.schema import build
from ingot.artifacts.store import Store
from ingot.pipeline import memory
from ingot.pipeline.sources import source_digest
from ingot.stages import base
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint
from ingot.stages.model.text import read_documents
from ingot.stages.model.tokens import encode, load_tokenizer, windows
from ingot.stages.model.torch_network import Network
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from ingot.artifacts.manifest import Artifact

    Floats = npt.NDArray[np.float64]

WINDOW = 256
TEXTS = ("calibration", "training_text", "selection_text")
THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What a quantizer made. nll: of each evaluation window, in nats.  predicted: the tokens predicted."""

    nll: Floats
    predicted: int
    bits_per_weight: float = 16.0
    cpu_seconds: float = 0.0
    max_rss_bytes: int = 0

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of a token."""
        return float(np.exp(self.nll.sum() / self.predicted))

    def above(self, other: Row) -> tuple[float, float]:
        """How far its log-perplexity is above another's on the same windows, and the standard error of that,
        windows taken as independent.
        """
        difference = self.nll - other.nll
        error = difference.std(ddof=1) * len(difference) ** 0.5 / self.predicted
        return float(difference.sum() / self.predicted), float(error)


def row(
    model: Path,
    evaluation: Path,
    count: int,
    stage: str,
    params: Mapping[str, object],
    workdir: Path,
    before: Sequence[tuple[str, Mapping[str, object]]] = (),
) -> Row:
    """The row of a stage, made unless ``workdir`` has it for these parameters, this text and this source.

    before: stages that the model goes through first, whose seconds count too.
    """
    chain = [*before, (stage, params)]
    source = [source_digest(base.get(each).module) for each, _ in chain]
    texts = [digest_file(Path(str(given[name]))) for _, given in chain for name in TEXTS if name in given]
    known = [str(model), digest_file(evaluation), count, [[each, dict(given)] for each, given in chain]]
    known += [source, texts]
    path = workdir / "rows" / f"{stage}-{digest_json(known)[:16]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        job = path.with_suffix(".job")
        job.write_text(json.dumps({
            "model": str(model), "evaluation": str(evaluation), "count": count,
            "stages": [[each, dict(given)] for each, given in chain], "workdir": str(workdir),
            "row": str(path),
        }))  # fmt: skip
        environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
        with path.with_suffix(".log").open("wb") as log:
            done = subprocess.run(
                [sys.executable, __file__, str(job)], env=environment, stdout=log, stderr=log, check=False
            )
        if done.returncode:
            raise SystemExit(f"{stage} failed; see {path.with_suffix('.log')}")
    value = json.loads(path.read_text())
    return Row(**{**value, "nll": np.array(value["nll"])})


def digest_file(path: Path) -> str:
    """The SHA-256 of a file."""
    from ingot.artifacts import digest

    return digest.digest_file(path)


def run(
    stages: Sequence[tuple[str, Mapping[str, object]]], model: Path, workdir: Path
) -> tuple[Artifact, dict]:
    """Runs stages one after the other on one thread; the last one's artifact, and what they took."""
    store = Store.open(workdir / "store")
    loaded, _ = run_stage(store, "load", {}, {"model": str(model)})
    _import_ahead([name for name, _ in stages])
    busy = time.process_time()
    artifact, observed = loaded, {}
    for name, params in stages:
        stage = base.get(name)
        # Whoever teaches, and whatever codes are of, is the model that was there first.
        inputs = {each: loaded if each == "teacher" else artifact for each in stage.inputs}
        inputs |= {f"{each}1": loaded for each in stage.many if params.get(each) == f"{each}1"}
        artifact, observed = run_stage(store, name, inputs, params)
    took = {"cpu_seconds": time.process_time() - busy, "max_rss_bytes": memory.peak_bytes()}
    return artifact, {**took, **{name: observed[name] for name in took if name in observed}}


def _import_ahead(stages: Sequence[str]) -> None:
    """Imports what stages import when they run, so that no stage pays for it."""
    import torch

    if any("accelerate" in base.get(name).tools for name in stages):
        import ingot.stages.train.trainer  # noqa: F401
        from transformers import AutoModelForCausalLM  # noqa: F401 - slow to import

    torch.set_num_threads(1)


def run_stage(
    store: Store, name: str, inputs: Mapping[str, Artifact], params: Mapping[str, object]
) -> tuple[Artifact, Mapping[str, object]]:
    stage = base.get(name)
    with store.outbox() as outbox, tempfile.TemporaryDirectory() as job:
        context = base.Context(
            params=build(stage.params, params), inputs=inputs, output=outbox, job=Path(job), seed=0,
            threads=1, progress=lambda *_: None, note=print,
        )  # fmt: skip
        result = stage.run(context)
        return outbox.publish(stage.output, result.facts), result.observed


def measure(directory: Path, evaluation: Path, count: int) -> tuple[Floats, int]:
    """The negative log-likelihood of each of the first ``count`` windows [count], and the tokens predicted.

    directory: a checkpoint, or a quantized one, whose weights are written out in float32 first.
    """
    import torch

    model = Checkpoint.open(directory).architecture
    documents = encode(load_tokenizer(directory), read_documents(evaluation))
    found = windows(documents, min(WINDOW, model.context)).leading(count)
    nll = np.zeros(found.count)
    with tempfile.TemporaryDirectory() as temporary:
        if (directory / "quantization.json").exists():
            write_dense(directory, Path(temporary))
            directory = Path(temporary)
        network = Network(directory, model.task)
        for which, ids in found.batches(8 * WINDOW):
            logits = torch.from_numpy(network(ids)[:, :-1])
            lost = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), torch.from_numpy(ids[:, 1:]).flatten(), reduction="none"
            )
            nll[which] = lost.double().reshape(len(which), -1).sum(1).numpy()
    return nll, found.tokens - found.count


def write_dense(quantized: Path, directory: Path) -> None:
    """A quantized checkpoint as an ordinary one in float32, of the weights that its codes stand for."""
    opened = QuantizedCheckpoint.open(quantized)
    tensors = {name: opened.checkpoint.tensors.float32(name) for name in opened.float_names()}
    for name, spec in opened.quantized.items():
        weight = opened.weight(name).dequantize()
        tensors[name] = weight.T if spec.stored_in_out else weight
    made = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(made, directory / "model.safetensors")
    for path in opened.checkpoint.sidecars():
        shutil.copyfile(path, directory / path.name)


def main(job: Path) -> None:
    """Runs the stages of a job and writes its row."""
    asked = json.loads(job.read_text())
    artifact, took = run(asked["stages"], Path(asked["model"]), Path(asked["workdir"]))
    nll, predicted = measure(artifact.path, Path(asked["evaluation"]), asked["count"])
    made = {**took, "nll": nll.tolist(), "predicted": predicted}
    made["bits_per_weight"] = artifact.facts.get("bits_per_weight", 16.0)
    part = Path(asked["row"]).with_suffix(".part")
    part.write_text(json.dumps(made))
    part.rename(asked["row"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
