"""A model outside the table: which stages its plan has, what they say of it, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import RecipeError
from ingot.pipeline.cli.inspect import show
from ingot.pipeline.inspection import inspect
from ingot.stages import base
from ingot.stages.estimates.table import TABLE
from safetensors.numpy import load_file

from .test_graph import folder, graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["folder"]

OUTSIDE = {"architecture": "FalconForCausalLM", "model_type": "falcon", "known_family": False}


def outside(place: Path, text: str, *sets: str) -> Any:
    return graph(place, text, *sets, **OUTSIDE)


def stages(found: Any) -> dict[str, str]:
    return {node.name: node.stage for node in found.nodes.values()}


@pytest.mark.parametrize("target", ["cpu", "cpu-fp32"])
def test_a_cpu_target_traces_it_in_float32_by_a_rule(folder: Path, target: str) -> None:
    found = outside(folder, f"targets: [{target}]\n")
    assert stages(found) == {
        "load": "load", "export@reference": "export.transformers", "reference": "validate.reference",
        f"quality@{target}": "validate.quality", f"cost@{target}": "validate.cost",
    }  # fmt: skip
    assert found.targets[target].artifact == "export@reference"
    gates = {gate.metric: gate.limit for gate in found.targets[target].gates}
    assert gates == {"perplexity": "0.1%", "parity_max_error": 1e-3}


def test_the_plan_says_what_is_not_available(folder: Path) -> None:
    (note,) = (each for each in outside(folder, "targets: [cpu]\n").notes if "falcon" in each)
    for word in ("not in Ingot's table", "float32", "quantization", "keys and values", "weights by role"):
        assert word in note
    assert not any("table" in each for each in graph(folder, "targets: [cpu]\n").notes)


@pytest.mark.parametrize(
    ("text", "stage", "place"),
    [
        ("targets: [cpu-int8]\n", "quantize.dynamic", "ingot.yaml:2"),
        ("targets: [cpu-int4]\n", "quantize.rtn", "ingot.yaml:2"),
        ("targets: {cpu: {quantize: {method: rtn, bits: 4}}}\n", "quantize.rtn", "ingot.yaml:2"),
        ("targets: [cpu]\nstages: {quantize: {method: dynamic}}\n", "quantize.dynamic", "ingot.yaml:2"),
        ("targets: {cpu: {export: {method: onnx}}}\n", "export.onnx", "ingot.yaml:2"),
    ],
)
def test_what_needs_its_layers_is_refused_with_the_remedy(
    folder: Path, text: str, stage: str, place: str
) -> None:
    with pytest.raises(RecipeError, match=f"{stage} works on the layers of known architectures") as caught:
        outside(folder, text)
    assert "falcon is not in Ingot's table" in caught.value.what
    assert "--target cpu-fp32" in str(caught.value.fix)
    assert "ingot.families" in str(caught.value.fix)
    assert caught.value.where == place


def test_a_known_model_may_be_traced_too_but_not_once_quantized(folder: Path) -> None:
    found = graph(folder, "targets: {cpu-fp32: {export: {method: transformers}}}\n")
    assert stages(found)["export@reference"] == "export.transformers"
    with pytest.raises(RecipeError, match=r"export\.transformers takes checkpoint"):
        graph(folder, "targets: {cpu-int8: {export: {method: transformers}}}\n")


def test_the_profiles_limits_reach_the_exporter(folder: Path) -> None:
    params: Any = outside(folder, "targets: [cpu]\n").node("export@reference").params
    assert (params.opset_range, params.ir_version_range) == ((7, 24), (3, 11))


def test_stages_take_models_outside_the_table_only_where_they_say_so() -> None:
    taking = {name for name in base.BUILTIN if base.get(name).any_architecture}
    measuring = {name for name in base.BUILTIN if name.partition(".")[0] == "validate"}
    calibrated = {"merge.search", "merge.fisher", "merge.regmean"}
    merging = {name for name in base.BUILTIN if name.partition(".")[0] == "merge"} - calibrated
    adapting = {"load.adapter", "fuse.lora"}
    assert taking == measuring | merging | adapting | {"load", "export.transformers"}
    assert "export.transformers" in TABLE


def test_inspect_says_it_too(tiny_checkpoint: Callable[..., Path]) -> None:
    directory = tiny_checkpoint("gptj")
    found = inspect(str(directory))
    assert found.objection is None
    assert found.facts is not None
    parameters = sum(tensor.size for tensor in load_file(directory / "model.safetensors").values())
    assert found.facts.parameters == parameters
    assert found.kv_bytes_per_token == 0
    needs = {need.target: need for need in found.needs}
    for target in ("cpu", "cpu-fp32"):
        assert needs[target].stages == ("load", "export.transformers")
        assert needs[target].widths == {"float32": parameters}
        assert needs[target].disk_bytes == 4 * parameters
    assert "quantize.dynamic works on the layers" in needs["cpu-int8"].fault
    shown = show(found)
    assert "note: gptj is not in Ingot's table" in shown
    assert "a token's keys and values" not in shown
    assert inspect(str(tiny_checkpoint("llama"))).notes == ()


def test_inspecting_and_planning_import_nothing_heavy(tiny_checkpoint: Callable[..., Path]) -> None:
    import subprocess
    import sys

    code = (
        "import sys, json\n"
        "from ingot.pipeline.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy'} & sys.modules.keys()\n"
        "print(json.dumps(sorted(heavy)), file=sys.stderr)\n"
    )
    for command in (["inspect"], ["plan", "--target", "cpu", "--model"]):
        given = [sys.executable, "-c", code, *command, str(tiny_checkpoint("gptj"))]
        done = subprocess.run(given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stderr.splitlines()[-1]) == []
        assert "gptj is not in Ingot's table" in done.stdout
