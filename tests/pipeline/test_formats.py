"""Weights that an exporter does not take are refused while planning, with the place and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import InputError
from ingot.artifacts.yaml import parse_yaml
from ingot.pipeline.assemble import graph_of
from ingot.pipeline.formats import require_accepted
from ingot.pipeline.graph import Builder, Graph, Node
from ingot.pipeline.recipe import read_recipe
from ingot.stages import base

if TYPE_CHECKING:
    from pathlib import Path


def graph(model: Path, folder: Path, text: str) -> Graph:
    return graph_of(read_recipe(parse_yaml(f"model: {model}\n{text}", "ingot.yaml"), folder, ()))


def chain(*stages: tuple[str, dict[str, Any]]) -> Graph:
    """`load`, then one stage after the other."""
    builder = Builder()
    builder.add(Node("load", "load", base.get("load").params(model="m")))
    before = "load"
    for name, values in stages:
        stage = base.get(name)
        origins = dict.fromkeys(values, "ingot.yaml:7")
        inputs = {next(iter(stage.inputs)): before}
        before = builder.add(Node(name, name, stage.params(**values), inputs, origins=origins))
    return builder.graph((), {})


@pytest.mark.parametrize(
    ("quantize", "export", "message"),
    [
        (("quantize.rtn", {"bits": 4}), {"layout": "gptq"}, "the gptq layout holds no embeddings"),
        (("quantize.rtn", {"bits": 3, "embedding_bits": 16}), {"layout": "awq"}, "3-bit"),
        (("quantize.dynamic", {"embedding_bits": 16}), {"layout": "awq"}, "dynamic activations"),
        (
            ("quantize.rtn", {"bits": 4, "embedding_bits": 16}),
            {"scale_dtype": "float32", "layout": "bitsandbytes"},
            "int4",
        ),
    ],
)
def test_a_layout_is_held_against_the_formats_of_headers(
    quantize: Any, export: Any, message: str, tiny_checkpoint: Any
) -> None:
    found = chain(quantize, ("export.checkpoint", export))
    with pytest.raises(InputError, match=message) as caught:
        require_accepted(found, {"load": tiny_checkpoint("llama")})
    assert caught.value.what.startswith("export.checkpoint: ")
    assert caught.value.where == "ingot.yaml:7"
    assert caught.value.fix


@pytest.mark.parametrize("method", ["nf4", "fp8"])
def test_onnx_is_held_against_them_too(method: str, tiny_checkpoint: Any) -> None:
    found = chain((f"quantize.{method}", {}), ("export.onnx", {}))
    with pytest.raises(InputError, match=f"onnxruntime has no kernel for {method} weights"):
        require_accepted(found, {"load": tiny_checkpoint("llama")})


def test_what_fits_passes(tiny_checkpoint: Any) -> None:
    fitting = {"embedding_bits": 16, "bits": 4, "group_size": 32}
    found = chain(("quantize.rtn", fitting), ("export.checkpoint", {"layout": "gptq"}))
    require_accepted(found, {"load": tiny_checkpoint("llama")})


def test_a_target_for_cpus_does_not_take_formats_of_gpus(tiny_checkpoint: Any, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("something that is held out, " * 64)
    text = "data: {evaluation: text.txt}\ntargets: {cpu: {quantize: {method: nf4}}}\n"
    with pytest.raises(InputError, match=r"the target cpu does not take quantize.method nf4"):
        graph(tiny_checkpoint("llama"), tmp_path, text)


def test_a_quantized_source_is_looked_at_too(tiny_checkpoint: Any, run_stage: Any, tmp_path: Path) -> None:
    source = run_stage("quantize.nf4", {"model": tiny_checkpoint("llama")}, ignore=["*.down_proj.weight"])
    packed = run_stage("export.checkpoint", {"model": source}, layout="bitsandbytes").path
    (tmp_path / "text.txt").write_text("something that is held out, " * 64)
    text = "data: {evaluation: text.txt}\ntargets: [mine.yaml]\n"
    (tmp_path / "mine.yaml").write_text("summary: all\nextends: cpu\naccepts: {weights: [nf4]}\n")
    with pytest.raises(InputError, match=r"export@mine: .*no kernel for nf4 weights"):
        graph(packed, tmp_path, text)


@pytest.mark.parametrize(
    ("family", "profile", "message"),
    [
        ("mixtral", "summary: g\nextends: nvidia\n", r"rule operator\.missing: TensorRT has no NonZero"),
        ("gpt2", "summary: g\nextends: nvidia\nlimits: {lacks: [Gelu]}\n", "needs Gelu"),
    ],
)
def test_an_operator_that_a_targets_runtime_lacks_is_found_while_planning(
    family: str, profile: str, message: str, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    (tmp_path / "gpu.yaml").write_text(profile)
    with pytest.raises(InputError, match=message) as caught:
        graph(tiny_checkpoint(family), tmp_path, "targets: [gpu.yaml]\n")
    assert caught.value.fix
