"""`ingot bench`: its axes, what it measures side by side, and its page."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import RecipeError, StoreError
from ingot.pipeline.bench import SIZES, Bench, bench, sweep_sizes, to_json
from ingot.pipeline.cli.bench import sweep_axes
from ingot.pipeline.cli.bench_view import show_bench
from ingot.pipeline.delivery_manifest import SCHEMA
from ingot.pipeline.report.bench_page import render_page, write_page
from ingot.stages.validate.cost import CostParams

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.artifacts.manifest import Artifact

PARAMS = CostParams(
    prefill_tokens=8, decode_tokens=2, repeats=1, passes=2, sweep_batch=(1, 3), sweep_sequence=(8, 4096)
)


@pytest.fixture(scope="module")
def measured(run_stage: Callable[..., Artifact], tiny_checkpoint: Callable[..., Path]) -> Bench:
    """A tiny export measured beside itself, with a sweep that only partly fits."""
    model = run_stage("load", {}, model=str(tiny_checkpoint("llama")))
    path = run_stage("export.onnx", {"model": model}).path
    return bench({"first": path, "<second>": path}, PARAMS, lambda _done, _total: None)


def test_axes_are_read_and_spaces_allowed() -> None:
    assert sweep_axes(("batch=1,2,4", "sequence=32, 128")) == {"batch": (1, 2, 4), "sequence": (32, 128)}
    assert sweep_axes(()) == {}


def test_axes_without_numbers_take_the_sizes_of_profiles(tmp_path: Path) -> None:
    assert sweep_axes(("batch,sequence",)) == {"batch": (), "sequence": ()}
    assert sweep_axes(("batch", "sequence=32")) == {"batch": (), "sequence": (32,)}
    for name in ("nvidia-sm89", "arm-mobile", "./edge.yaml"):
        place = tmp_path / name.strip("./")
        place.mkdir()
        (place / "manifest.json").write_text(json.dumps({"schema": SCHEMA, "profile": name, "files": []}))
    gpu, phone, own = (tmp_path / name for name in ("nvidia-sm89", "arm-mobile", "edge.yaml"))
    assert sweep_sizes([gpu], "batch") == (1, 8)
    assert sweep_sizes([gpu, phone], "sequence") == (128, 1024)
    # A delivery may be anybody's, so no file that it names is read.
    assert sweep_sizes([own], "batch") == SIZES["batch"]
    assert sweep_sizes([tmp_path], "sequence") == SIZES["sequence"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("bacth=1",), "no axis 'bacth'"),
        (("batch=0",), "numbers from 1 on"),
        (("batch,",), "not an axis"),
        (("batch,tokens",), "no axis 'tokens'"),
        (("batch,sequence", "batch=1"), "given twice"),
        (("batch=1,,2",), "not an axis"),
        (("batch=1", "batch=2"), "given twice"),
    ],
)
def test_axes_that_are_wrong_are_refused_with_what_to_write(options: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as raised:
        sweep_axes(options)
    assert raised.value.fix


def test_models_are_measured_in_every_cell_that_fits(measured: Bench) -> None:
    assert [row.name for row in measured.rows] == ["first", "<second>"]
    assert [(cell.batch, cell.sequence) for cell in measured.sweep] == [(1, 8), (3, 8)]
    assert all(set(cell.sides) == {"first", "<second>"} for cell in measured.sweep)
    assert "sequences of 4096" in measured.left_out_sentence
    plain = json.loads(json.dumps(to_json(measured)))
    assert "samples" not in plain["rows"][0]
    assert plain["sweep"][1]["sides"]["first"]["prefill_ms"]["n"] == 2


def test_the_terminal_has_a_line_for_each_cell_and_model(
    measured: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    show_bench(measured)
    out = capsys.readouterr().out
    assert len(re.findall(r"tokens/s", out)) == 3
    assert out.count("<second>") == 1 + 2
    assert "left out of the sweep" in out


def test_the_page_has_figures_of_every_model_and_escapes_names(measured: Bench) -> None:
    page = render_page(measured, command="ingot bench a", environment={"System": "<b>"})
    assert page.count("<figure>") == 2 * 2 + 2 * 2 * 2
    assert "&lt;second&gt;: prefill" in page
    assert "<second>" not in page
    assert "<b>" not in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")


def test_a_place_that_takes_no_page_is_an_error_of_ours(measured: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        write_page(measured, tmp_path / "file" / "bench.html", command="", environment={})
