"""What tests of stages share: adapters as PEFT writes them, trainings, a calibration text and its stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ingot.artifacts.manifest import Artifact

MakeAdapter = Callable[..., Path]

CALIBRATION = (
    "The river ran past the mill, and the road with the river to the town. She sold 4 hinges — in vain! "
)
TEXT = "the river ran past the old mill and the road ran with it to the town in the market"

# What PEFT 0.21 writes for a plain LoraConfig.
PLAIN: Mapping[str, object] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "somewhere/base", "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False,
    "inference_mode": True, "init_lora_weights": True, "kasa_config": None, "layer_replication": None,
    "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 8,
    "lora_bias": False, "lora_dropout": 0.05, "lora_ga_config": None, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "monteclora_config": None,
    "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 4, "rank_pattern": {},
    "revision": None, "target_modules": ["q_proj"], "target_parameters": None, "task_type": "CAUSAL_LM",
    "trainable_token_indices": None, "use_bdlora": None, "use_dora": False, "use_qalora": False,
    "use_rslora": False, "velora_config": None,
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What a stage made, observed and noted, and the checkpoint that it was given."""

    artifact: Artifact
    observed: dict[str, Any]
    notes: tuple[str, ...]
    directory: Path

    @property
    def tensors(self) -> dict[str, Any]:
        """What was observed of each weight."""
        return self.observed["tensors"]


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of about 3,000 tokens."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text("\n".join(f"{number}. {CALIBRATION * 2}" for number in range(40)))
    return path


@pytest.fixture
def make_from(store: Any, tiny_checkpoint: Any, tmp_path: Path, calibration: Path) -> Callable[..., Made]:
    """``(directory or family, stage, job=None, threads=1, progress=None, **params) -> Made``.

    A stage that takes a calibration text is given one of 16 windows of 64 tokens.
    """
    from ingot.artifacts.schema import build, fields
    from ingot.stages import base

    jobs = iter(range(100))

    def make(
        source: Path | str,
        stage: str,
        job: Path | None = None,
        threads: int = 1,
        progress: Any = None,
        **params: object,
    ) -> Made:
        directory = tiny_checkpoint(source) if isinstance(source, str) else source
        with store.outbox() as outbox:
            for path in directory.iterdir():
                outbox.copy_in(path, path.name)
            given = outbox.publish("checkpoint", {})
        found, notes = base.get(stage), []
        job = job or tmp_path / f"job-{next(jobs)}"
        job.mkdir(exist_ok=True)
        usual = {"calibration": str(calibration), "samples": 16, "window": 64}
        values = {**{name: usual[name] for name in usual if name in fields(found.params)}, **params}
        with store.outbox() as outbox:
            context = base.Context(
                params=build(found.params, values, prefix=stage.partition(".")[0]),
                inputs={"model": given},
                output=outbox,
                job=job,
                seed=0,
                threads=threads,
                progress=progress or (lambda done, total, what: None),
                note=notes.append,
            )
            result = found.run(context)
            artifact = outbox.publish(found.output, result.facts)
        return Made(artifact, dict(result.observed), tuple(notes), directory)

    return make


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """``(tensors, name="adapter", **config) -> directory``: tensors by their names behind PEFT's prefix."""
    from safetensors.torch import save_file

    def make(tensors: Mapping[str, Any], name: str = "adapter", **config: object) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "adapter_config.json").write_text(json.dumps({**PLAIN, **config}))
        stored = {f"base_model.model.{key}": value.contiguous().clone() for key, value in tensors.items()}
        save_file(stored, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        return directory

    return make


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """Twenty documents of a hundred words or so, each beginning at another."""
    words = TEXT.split()
    parts = [" ".join(words[(start + 3 * at) % len(words)] for at in range(60)) for start in range(20)]
    path = tmp_path / "train.txt"
    path.write_text("\n<|endoftext|>\n".join(parts))
    return path


@pytest.fixture
def make_setup(tiny_checkpoint, text_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """``(family="llama", objective=None, job="job", hooks=(), **params) -> Setup`` of a fresh network."""
    from ingot.artifacts.schema import build
    from ingot.stages.model.checkpoint import Checkpoint
    from ingot.stages.train.network import Network
    from ingot.stages.train.objective import NextToken
    from ingot.stages.train.params import TrainParams
    from ingot.stages.train.text import read_corpus
    from ingot.stages.train.trainer import Setup

    def make(family="llama", objective=None, job="job", dtype="float32", extra=(), **params: object) -> Setup:
        given = {
            "training_text": str(text_file),
            "window": 16,
            "batch_size": 4,
            "steps": 6,
            "evaluate_every": 2,
        }
        built = build(TrainParams, {**given, **params})
        source = Checkpoint.open(tiny_checkpoint(family, dtype))
        directory = tmp_path / job
        directory.mkdir(exist_ok=True)
        network = Network.load(source)
        return Setup(
            network.module, objective or NextToken(), read_corpus(source, built, [].append), built, directory,
            "the same", stored=network.stored, **dict(extra),
        )  # fmt: skip

    return make
