"""`matrix:`: cells as leaves with safe names, what they share, what `--select` means, and what is refused."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.errors import RecipeError
from ingot.artifacts.yaml import parse_yaml
from ingot.pipeline import layers
from ingot.pipeline.assemble import build_graph
from ingot.pipeline.matrix import MOST_CELLS, cell_name, choose, label
from ingot.pipeline.recipe import read_recipe
from ingot.stages import base
from ingot.targets.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.pipeline.graph import Graph

HOST = Host("linux", "x86_64", "a processor", ("avx2", "avx512_vnni"), 8, 64 << 30)
FACTS = {
    "task": "causal-lm", "architecture": "LlamaForCausalLM", "model_type": "llama",
    "parameters": 60_000_000, "weight_bytes": 120_000_000,
}  # fmt: skip


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Graph]:
    """The graph of a recipe for `ckpt`, with a stage `prune.toy` from a checkpoint to another."""
    (tmp_path / "ckpt").mkdir()
    found = replace(base.get("quantize.rtn"), name="prune.toy", output="checkpoint")
    monkeypatch.setitem(sys.modules, "toy_prune", SimpleNamespace(run=found))  # type: ignore[arg-type]
    monkeypatch.setitem(base.BUILTIN, "prune.toy", "toy_prune")  # type: ignore[arg-type]

    def graph(text: str, *sets: str) -> Graph:
        overrides = layers.command_line(sets)
        recipe = read_recipe(parse_yaml(f"model: ckpt\n{text}", "ingot.yaml"), tmp_path, overrides)
        return build_graph(recipe, FACTS, HOST)

    return graph


def params(found: Graph, name: str) -> Any:
    return found.node(name).params


def test_every_choice_of_values_is_a_leaf_of_its_own(graph: Callable[..., Graph]) -> None:
    found = graph(
        "targets: [cpu-int4]\nstages: {quantize: rtn}\n"
        "matrix: {quantize.sym: [true, false], quantize.group_size: [32, 128]}\n"
    )
    names = [
        "cpu-int4[sym=true,group_size=32]", "cpu-int4[sym=true,group_size=128]",
        "cpu-int4[sym=false,group_size=32]", "cpu-int4[sym=false,group_size=128]",
    ]  # fmt: skip
    assert list(found.targets) == names
    for name in names:
        chosen = params(found, f"quantize@{name}")
        leaf = found.targets[name]
        assert leaf.cell == {"sym": str(chosen.sym).lower(), "group_size": str(chosen.group_size)}
        assert (leaf.cell_of, leaf.is_delivered) == ("cpu-int4", False)
        assert leaf.nodes == (f"export@{name}", f"quality@{name}", f"cost@{name}")
    assert {node for node in found.nodes if "[" not in node} == {"load", "reference", "export@reference"}
    assert found.node(f"quantize@{names[0]}").origins["sym"] == "ingot.yaml:4"


def test_the_gates_of_a_cell_follow_its_own_width(graph: Callable[..., Graph]) -> None:
    found = graph("stages: {quantize: rtn}\nmatrix: {quantize.bits: [4, 8]}\n")
    limits = {name: [gate.limit for gate in leaf.gates] for name, leaf in found.targets.items()}
    assert limits == {"cpu[bits=4]": ["5%"], "cpu[bits=8]": ["2%"]}


def test_one_target_may_have_a_matrix_of_its_own(graph: Callable[..., Graph]) -> None:
    found = graph(
        "targets:\n  cpu-int8:\n  cpu-int4: {matrix: {quantize.group_size: [32, 64]}}\n"
        "matrix: {quantize.group_size: [16]}\nstages: {quantize: rtn}\n"
        "measure: {cost: {repeats: 3}}\n",
        "quantize@cpu-int8.bits=8",
    )
    assert list(found.targets) == [
        "cpu-int8[group_size=16]", "cpu-int4[group_size=32]", "cpu-int4[group_size=64]",
    ]  # fmt: skip


def test_methods_fan_out_like_any_parameter(graph: Callable[..., Graph]) -> None:
    found = graph("matrix: {quantize.method: [rtn, dynamic, none]}\n")
    assert list(found.targets) == ["cpu[method=rtn]", "cpu[method=dynamic]", "cpu[method=none]"]
    assert found.nodes["quantize@cpu[method=rtn]"].stage == "quantize.rtn"
    assert found.nodes["quantize@cpu[method=dynamic]"].stage == "quantize.dynamic"
    assert found.targets["cpu[method=none]"].artifact == "export@reference"


def test_a_methods_values_keep_what_was_written_beside_them(graph: Callable[..., Graph]) -> None:
    found = graph("stages: {quantize: {bits: 8}}\nmatrix: {quantize.method: [rtn, dynamic]}\n")
    assert {leaf: params(found, f"quantize@{leaf}").bits for leaf in found.targets} == {
        "cpu[method=rtn]": 8, "cpu[method=dynamic]": 8,
    }  # fmt: skip


def test_a_shared_node_fans_out_and_what_it_does_not_reach_is_built_once(
    graph: Callable[..., Graph],
) -> None:
    found = graph(
        "targets: [cpu-int8, cpu-fp32]\n"
        "stages:\n"
        "  first: {stage: prune.toy, params: {bits: 8}}\n"
        "  second: {stage: prune.toy}\n"
        "  third: {stage: prune.toy, params: {bits: 2}}\n"
        "matrix: {second.group_size: [32, 64]}\n"
    )
    shared = [name for name in found.nodes if "@" not in name]
    assert shared == [
        "load", "first", "second[group_size=32]", "third[group_size=32]",
        "reference", "second[group_size=64]", "third[group_size=64]",
    ]  # fmt: skip
    assert found.nodes["third[group_size=64]"].inputs == {"model": "second[group_size=64]"}
    assert found.nodes["second[group_size=64]"].inputs == {"model": "first"}
    assert found.nodes["quantize@cpu-int8[group_size=64]"].inputs == {"model": "third[group_size=64]"}
    assert found.nodes["export@cpu-fp32[group_size=32]"].inputs == {"model": "third[group_size=32]"}


def test_an_axis_fans_out_only_the_targets_that_come_from_its_node(graph: Callable[..., Graph]) -> None:
    found = graph(
        "targets: {a: {profile: cpu-int4, from: small}, b: {profile: cpu-int8, from: load}}\n"
        "stages: {small: {stage: quantize.rtn, from: load}}\n"
        "matrix: {small.group_size: [32, 64]}\n"
    )
    assert list(found.targets) == ["a[group_size=32]", "a[group_size=64]", "b"]
    assert found.targets["b"].is_delivered


def test_parameters_of_one_name_are_told_apart_by_their_nodes(graph: Callable[..., Graph]) -> None:
    found = graph(
        "targets: [cpu-int4]\nstages: {prune: {method: toy}}\n"
        "matrix: {prune.group_size: [32], quantize.group_size: [64]}\n"
    )
    assert list(found.targets) == ["cpu-int4[prune.group_size=32,quantize.group_size=64]"]
    assert "prune[prune.group_size=32]" in found.nodes


def test_a_parameter_of_the_exporter_changes_the_reference_export_too(graph: Callable[..., Graph]) -> None:
    found = graph("targets: [cpu-int4]\nmatrix: {export.accuracy_level: [0, 4]}\n")
    for name, leaf in found.targets.items():
        plain = found.nodes[leaf.cost].inputs["reference"]
        assert params(found, plain).accuracy_level == params(found, f"export@{name}").accuracy_level
    assert found.nodes["quantize@cpu-int4[accuracy_level=0]"].target is None, "both cells share it"


def test_selecting_leaves_keeps_what_they_come_from_alone(graph: Callable[..., Graph]) -> None:
    found = graph("targets: [cpu-int4, cpu-int8]\nmatrix: {quantize.lm_head_bits: [8, 16]}\n")
    kept = found.selected(("cpu-int4[lm_head_bits=16]",))
    assert list(kept.nodes) == [
        "load", "export@reference", "reference", "quantize@cpu-int4[lm_head_bits=16]",
        "export@cpu-int4[lm_head_bits=16]", "quality@cpu-int4[lm_head_bits=16]",
        "cost@cpu-int4[lm_head_bits=16]",
    ]  # fmt: skip
    assert kept.targets["cpu-int4[lm_head_bits=16]"].is_delivered


NAMES = ("cpu-int4[bits=2,group_size=32]", "cpu-int4[bits=2,group_size=64]", "cpu-int4[bits=4]", "cpu")


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (["cpu"], NAMES[3:]),
        (["cpu-int4"], NAMES[:3]),
        (["cpu-int4[bits=2]"], NAMES[:2]),
        (["cpu-int4[group_size=64]"], NAMES[1:2]),
        (["cpu-int4[group_size=32,bits=2]"], NAMES[:1]),
        (["cpu-int4[bits=2, group_size=32]"], NAMES[:1]),
        (["cpu", "cpu-int4[bits=4]"], NAMES[2:]),
    ],
)
def test_select_takes_targets_whole_cells_and_cells_by_part(
    wanted: list[str], chosen: tuple[str, ...]
) -> None:
    assert choose(NAMES, wanted) == chosen


@pytest.mark.parametrize(
    ("wanted", "fix"),
    [("cpu-int5", "did you mean 'cpu-int4'?"), ("cpu-int4[bits=3]", "cpu-int4[bits=4]"), ("x", "there are")],
)
def test_selecting_nothing_is_an_error_with_the_nearest_name(wanted: str, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        choose(NAMES, [wanted])
    assert repr(wanted) in caught.value.what
    assert fix in str(caught.value.fix)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(values)
def test_every_value_makes_a_name_that_directories_may_have(value: object) -> None:
    name = cell_name("cpu", {"bits": label(value)})
    assert re.fullmatch(r"cpu\[bits=[A-Za-z0-9._+-]*\]", name)


INT4 = "targets: [cpu-int4]\n"


@pytest.mark.parametrize(
    ("text", "what", "line", "fix"),
    [
        ("matrix: {bits: [2]}\n", "matrix.bits: this names no parameter", 2, "quantize.bits: [3, 4]"),
        ("matrix:\n  quantise.bits: [2]\n", "matrix.quantise is not a known name", 3, "mean quantize?"),
        ("matrix: {quantize.bits: 4}\n", "4 is not a list of values", 2, None),
        ("matrix: {quantize.bits: []}\n", "[] is not a list of values", 2, None),
        ("matrix:\n  quantize.bits:\n  - 2\n  - 2\n", "2 and 2 would name the same cell", 5, None),
        ("matrix: {quantize.ignore: [[a/b], [a*b]]}\n", "would name the same cell", 2, None),
        ("matrix: {quantize.bits: [{a: 1}]}\n", "a mapping cannot name a cell", 2, None),
        (f"matrix: {{quantize.ignore: [[{'x' * 41}]]}}\n", "cannot name a cell", 2, "1 to 40 letters"),
        (f"{INT4}matrix: {{quantize.bits: [4, 5]}}\n", "bits: 5 is not one of", 3, None),
        (f"{INT4}matrix: {{quantize.bit: [4]}}\n", "bit: stage quantize.rtn has no such", 3, "mean bits?"),
        (f"{INT4}matrix: {{quantize.bits: [4, 8]}}\n", "cpu-int4 does not take weights of int8", 3, None),
        (f"{INT4}stages: {{quantize: {{group_size: 64}}}}\nmatrix: {{quantize.group_size: [16, 32]}}\n",
         "quantize.group_size: 64 stands beside a matrix of quantize.group_size (ingot.yaml:4)", 3, None),
        ("targets: {cpu-int4: {quantize: {sym: true}}}\nmatrix: {quantize.sym: [true, false]}\n",
         "quantize.sym: True stands beside a matrix", 2, None),
        ("targets: {cpu-fp32: }\nmatrix: {quantize.bits: [4]}\n", "quantize.bits has no effect", 3, None),
        (("targets: {cpu-int4: {from: small}}\nstages: {small: {stage: quantize.rtn}}\n"
         "matrix: {quantize.sym: [true]}\n"), "it reaches no target", 4, None),
        (("targets: {cpu-int4: {from: small, matrix: {quantize.sym: [true]}}}\n"
         "stages: {small: {stage: quantize.rtn}}\n"), "cpu-int4 does not come from quantize", 2, None),
        (f"matrix: {{cost.repeats: {list(range(1, MOST_CELLS + 2))}}}\n", "has 101 cells", 2, None),
    ],
)  # fmt: skip
def test_a_matrix_that_makes_no_sense_is_refused_with_its_line(
    graph: Callable[..., Graph], text: str, what: str, line: int, fix: str | None
) -> None:
    with pytest.raises(RecipeError) as caught:
        graph(text)
    assert what in caught.value.what
    assert caught.value.where == f"ingot.yaml:{line}"
    if fix is not None:
        assert fix in str(caught.value.fix)


def test_a_written_value_may_be_one_of_the_matrix(graph: Callable[..., Graph]) -> None:
    text = f"{INT4}stages: {{quantize: {{group_size: 32}}}}\nmatrix: {{quantize.group_size: [32, 64]}}\n"
    assert len(graph(text).targets) == 2


def test_an_option_that_would_make_all_cells_equal_is_refused(graph: Callable[..., Graph]) -> None:
    with pytest.raises(RecipeError, match="stands beside a matrix") as caught:
        graph(f"{INT4}matrix: {{quantize.sym: [true, false]}}\n", "quantize.sym=false")
    assert caught.value.where == "--set quantize.sym=false"


def test_an_option_for_a_target_holds_for_all_of_its_cells(graph: Callable[..., Graph]) -> None:
    found = graph(f"{INT4}matrix: {{quantize.sym: [true, false]}}\n", "quantize@cpu-int4.group_size=64")
    assert {params(found, f"quantize@{leaf}").group_size for leaf in found.targets} == {64}
