"""Targets that take an adapter: PEFT's files are delivered, and its base is measured with it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import ingot
import numpy as np
import pytest
import yaml
from ingot.artifacts.errors import RecipeError
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

SENTENCE = "The river ran past mill number {} and the road ran with the river to the town. "
TEXT = "\n<|endoftext|>\n".join(SENTENCE.format(number) * 4 for number in range(12))
CHANGED = "model.layers.0.mlp.up_proj.weight"

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def tuned(tiny_checkpoint: Any, tmp_path: Path) -> Path:
    """A model that differs from the tiny llama by a change of rank 2 in one weight."""
    directory = tmp_path / "tuned"
    shutil.copytree(tiny_checkpoint("llama"), directory)
    weights = load_file(directory / "model.safetensors")
    generator = np.random.default_rng(0)
    rows, columns = weights[CHANGED].shape
    change = generator.normal(0, 0.2, (rows, 2)) @ generator.normal(0, 1, (2, columns))
    weights[CHANGED] = (weights[CHANGED] + change).astype(np.float32)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory


def run(tmp_path: Path, base: Path, tuned: Path, targets: dict[str, Any]) -> Any:
    (tmp_path / "held-out.txt").write_text(TEXT)
    recipe = {
        "model": str(base),
        "targets": targets,
        "stages": {
            "tuned": {"stage": "load", "params": {"model": str(tuned)}},
            "change": {
                "stage": "fuse.extract_lora",
                "params": {"rank": 2},
                "from": {"model": "tuned", "base": "load"},
            },
        },
        "reference": "tuned",
        "data": {"evaluation": "held-out.txt"},
        "gates": {"perplexity": {"max_increase": "1%"}},
        "measure": {"cost": {"repeats": 1, "passes": 1}},
    }
    (tmp_path / "ingot.yaml").write_text(json.dumps(recipe))
    return ingot.run(tmp_path / "ingot.yaml", store=tmp_path / "store", out=tmp_path / "out")


def test_an_adapter_is_delivered_and_measured_against_what_it_was_taken_from(
    tiny_checkpoint: Any, tuned: Path, tmp_path: Path
) -> None:
    base = tiny_checkpoint("llama")
    done = run(tmp_path, base, tuned, {"adapter": {"from": "change"}})
    assert done.verdict == "pass"
    delivery = tmp_path / "out" / "adapter"
    pair = load_file(delivery / "adapter_model.safetensors")
    config = json.loads((delivery / "adapter_config.json").read_text())
    module = f"base_model.model.{CHANGED.removesuffix('.weight')}"
    change = pair[f"{module}.lora_B.weight"] @ pair[f"{module}.lora_A.weight"]
    before, after = (load_file(each / "model.safetensors")[CHANGED] for each in (base, tuned))
    assert config["lora_alpha"] == config["r"] == 2
    assert np.abs(before + change - after).max() < 1e-5
    # The network with it is the tuned one, which the base alone is far from.
    metrics = done.report.targets["adapter"].metrics
    assert abs(metrics["perplexity"].delta) < 1e-4
    assert metrics["kl_divergence"].value < 1e-6
    assert metrics["size_bytes"].value == (delivery / "adapter_model.safetensors").stat().st_size
    manifest = json.loads((delivery / "manifest.json").read_text())
    assert (manifest["kind"], manifest["runtime"]) == ("adapter", {"format": "peft", "requires": {}})
    card = (delivery / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"
    assert 'PeftModel.from_pretrained(base, ".")' in card
    assert {node.name for node in done.report.nodes} >= {"fuse@adapter", "export@adapter"}


def test_a_target_that_quantizes_takes_no_adapter(tiny_checkpoint: Any, tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"targets.cpu-int8: .* change makes an adapter") as caught:
        run(tmp_path, tiny_checkpoint("llama"), tuned, {"cpu-int8": {"from": "change"}})
    assert "profile: adapter" in (caught.value.fix or "")


def test_an_adapter_of_a_quantized_base_is_measured_on_what_its_codes_stand_for(
    tiny_checkpoint: Any, tuned: Path, run_stage: Any, tmp_path: Path
) -> None:
    settings = {"bits": 4, "group_size": 32, "embedding_bits": 16, "lm_head_bits": 16}
    codes = run_stage("quantize.rtn", {"model": tiny_checkpoint("llama")}, **settings)
    packed = run_stage("export.checkpoint", {"model": codes}, layout="gptq").path
    base = {"stage": "load", "params": {"model": str(tiny_checkpoint("llama"))}}
    text = tmp_path / "held-out.txt"
    text.write_text(TEXT)
    found = ingot.plan(
        model=packed,
        targets={"cpu-fp32": {"from": "fuse"}},
        stages={
            "plain": base,
            "tuned": {"stage": "load", "params": {"model": str(tuned)}},
            "change": {"stage": "fuse.extract_lora", "from": {"model": "tuned", "base": "plain"}},
            "fuse": {
                "stage": "fuse.lora",
                "params": {"adapters": [{"adapter": "change"}], "dequantize": True},
                "from": "load",
            },
        },
        data={"evaluation": text},
        store=tmp_path / "store",
    )
    assert found.graph.nodes["fuse"].params.dequantize
    assert found.graph.nodes["load"].stage == "load.quantized"
