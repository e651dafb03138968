"""What config.json says of factored and shared layers: read, or refused with what is wrong in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import IntakeError

if TYPE_CHECKING:
    from pathlib import Path

UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"


def read(directory: Path, written: object) -> Any:
    from ingot.stages.model.families import architecture

    config = json.loads((directory / "config.json").read_text())
    return architecture({**config, "ingot": written}, "config.json")


def test_a_factored_map_is_two_weights_and_reads_through_the_first(tiny_checkpoint: Any) -> None:
    model = read(tiny_checkpoint("llama"), {"factored": {f"{UP}.weight": 8}})
    up = model.layers[0].feed_forward.up
    assert (up.in_features, up.out_features, up.entry.in_features, up.entry.out_features) == (8, 160, 64, 8)
    names = [linear.name for linear in model.linears]
    assert names.index(f"{UP}.first.weight") == names.index(f"{UP}.weight") - 1
    assert model.layers[1].feed_forward.up.first is None


def test_shared_maps_have_one_name_and_are_listed_once(tiny_checkpoint: Any) -> None:
    model = read(tiny_checkpoint("llama"), {"shared": {DOWN: UP}, "factored": {f"{UP}.weight": 8}})
    one, other = (layer.feed_forward.up for layer in model.layers)
    assert one == other
    names = [linear.name for linear in model.linears]
    assert names.count(f"{UP}.weight") == names.count(f"{UP}.first.weight") == 1
    assert f"{DOWN}.weight" not in names


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"sliced": {}}, "holds more than factored and shared"),
        ([], "holds more than factored and shared"),
        ({"factored": {f"{UP}.weight": 0}}, "does not give each weight a rank"),
        ({"factored": {f"{UP}.weight": True}}, "does not give each weight a rank"),
        ({"factored": {f"{UP}.weight": 60}}, "rank 60 saves nothing"),
        ({"factored": {"model.layers.9.mlp.up_proj.weight": 8}}, "there is no weight model.layers.9"),
        ({"shared": {DOWN: 3}}, "does not give each module another"),
        ({"shared": {DOWN: UP, UP: DOWN}}, "which is shared itself"),
        ({"shared": {DOWN: "model.layers.7.mlp.up_proj"}}, "there is no module model.layers.7"),
        ({"shared": {DOWN: "model.layers.0.mlp.down_proj"}}, "has no weight like it"),
    ],
)
def test_what_cannot_be_meant_is_refused(written: object, message: str, tiny_checkpoint: Any) -> None:
    with pytest.raises(IntakeError, match=message):
        read(tiny_checkpoint("llama"), written)


def test_loading_checks_the_tensors_of_both_maps(
    tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    import shutil

    made = run_stage("factor.svd", {"model": tiny_checkpoint("llama")}, ratio=0.5)
    directory = tmp_path / "wrong"
    shutil.copytree(made.path, directory)
    config = json.loads((directory / "config.json").read_text())
    config["ingot"]["factored"][f"{UP}.weight"] += 8
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        IntakeError, match=r"wrong shape: .*up_proj\.first\.weight is \[16, 64\] instead of \[24, 64\]"
    ):
        run_stage("load", {}, model=str(directory))
    assert run_stage("load", {}, model=str(made.path)).facts["parameters"] == made.facts["parameters"]
