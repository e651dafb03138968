"""The evaluation text, references and exports that the tests of validate share, made once a session."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.artifacts.manifest import Artifact

WINDOW = 32
SENTENCES = (
    "The river ran past the old mill and the miller's house, and the road ran with the river to the town. ",
    "She sold 3 hinges to the smith, then 4; when the water rose in April, naïve guests asked for a boat. ",
    "A market stood in the town all winter, and the doors of the mill were shut on the ice. ",
)
MEASURED = "measurements.json", "samples.json"


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five documents of different length as JSON lines."""
    path = tmp_path_factory.mktemp("text") / "held-out.jsonl"
    texts = [SENTENCES[number % 3] * (number + 1) for number in range(5)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def reference(
    run_stage: Callable[..., Artifact], tiny_checkpoint: Callable[..., Path], evaluation: Path
) -> Callable[[str], Artifact]:
    """The reference of a family: ``(family) -> Artifact``."""
    made: dict[str, Artifact] = {}

    def make(family: str) -> Artifact:
        if family not in made:
            inputs = {"model": tiny_checkpoint(family)}
            made[family] = run_stage(
                "validate.reference", inputs, evaluation=str(evaluation), window=WINDOW, top_k=20
            )
        return made[family]

    return make


@pytest.fixture(scope="session")
def exported(
    run_stage: Callable[..., Artifact], tiny_checkpoint: Callable[..., Path]
) -> Callable[..., Artifact]:
    """The export of a family, quantized when bits are given: ``(family, bits=0) -> Artifact``."""
    made: dict[tuple[str, int], Artifact] = {}

    def make(family: str, bits: int = 0) -> Artifact:
        if (family, bits) not in made:
            model: Any = tiny_checkpoint(family)
            if bits:
                model = run_stage("quantize.rtn", {"model": model}, bits=bits)
            made[family, bits] = run_stage("export.onnx", {"model": model})
        return made[family, bits]

    return make


def measured(artifact: Artifact) -> tuple[dict[str, Any], dict[str, Any]]:
    """measurements.json and samples.json."""
    first, second = (json.loads((artifact.path / name).read_text()) for name in MEASURED)
    return first, second
