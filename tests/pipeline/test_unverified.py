"""A target whose device is missing: built, delivered, and finished by `ingot validate` elsewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ingot
import pytest
from ingot.artifacts.errors import CorruptError, InputError, RequirementError, StageError
from ingot.artifacts.store import Store
from ingot.pipeline import plan as plans
from ingot.pipeline import requirements, validation
from ingot.pipeline.cli.plan_view import show_plan
from ingot.pipeline.cli.validate import show
from ingot.pipeline.validation import Options, validate
from ingot.stages import base
from ingot.stages.base import Requirement

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingot.pipeline.graph import Node

SENTENCE = "The river ran past mill number {} and the road ran with the river to the town. "
TEXT = "\n<|endoftext|>\n".join(SENTENCE.format(number) * 4 for number in range(12))
PHONE = Requirement("a phone", met=False, fix="plug one in", is_device=True)

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def arguments(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> dict[str, Any]:
    text = tmp_path / "held-out.txt"
    text.write_text(TEXT)
    return {
        "model": tiny_checkpoint("llama"),
        "targets": ["cpu-int8"],
        "data": {"evaluation": text},
        "measure": {"cost": {"repeats": 2, "passes": 1, "prefill_tokens": 16, "decode_tokens": 4}},
        "gates": {"perplexity": {"max_increase": "900%"}, "size_bytes": {"max": "60MB"}},
        "store": tmp_path / "store",
    }


@pytest.fixture
def no_phone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What measures a target needs a phone, and none is here."""
    real = requirements.of_node

    def of_node(node: Node) -> tuple[Requirement, ...]:
        return (*real(node), *((PHONE,) if node.name.startswith(("quality@", "cost@")) else ()))

    monkeypatch.setattr(plans, "of_node", of_node)


@pytest.fixture
def delivery(arguments: dict[str, Any], no_phone: None, tmp_path: Path) -> Path:
    ingot.run(**arguments, out=tmp_path / "out")
    return tmp_path / "out" / "cpu-int8.unverified"


def test_a_missing_device_is_found_while_planning_and_is_no_reason_to_stop(
    arguments: dict[str, Any], no_phone: None
) -> None:
    planned = ingot.plan(**arguments)
    planned.require()
    assert planned.missing == ()
    assert planned.absent == (PHONE,)
    assert planned.unverified == {"cpu-int8": "this machine lacks a phone"}
    shown = show_plan(planned)
    assert "cpu-int8 will end unverified: this machine lacks a phone" in shown
    assert "plug one in" in shown
    assert plans.to_json(planned)["unverified"] == {"cpu-int8": "this machine lacks a phone"}


def test_reasons_stand_below_one_another_however_long_the_names_of_stages_are(
    arguments: dict[str, Any],
) -> None:
    planned = ingot.plan(**{**arguments, "targets": ["arm-mobile"]})
    lines = show_plan(planned).splitlines()
    told = {name: next(line for line in lines if f" {name} " in line) for name in planned.decisions}
    begin = {line.index(planned.decisions[name].reason) for name, line in told.items()}
    assert len(begin) == 1


def test_everything_up_to_the_device_is_built_and_delivered_as_unverified(
    arguments: dict[str, Any], no_phone: None, tmp_path: Path
) -> None:
    run = ingot.run(**arguments, out=tmp_path / "out")
    target = run.targets["cpu-int8"]
    assert (target.status, run.report.exit_code) == ("unverified", 3)
    assert "quality@cpu-int8: this machine lacks a phone" in target.explanation
    assert target.delivery == str(tmp_path / "out" / "cpu-int8.unverified")
    ends = {node.name: node.state for node in run.report.nodes}
    assert ends["export@cpu-int8"] == ends["reference"] == "built"
    assert ends["quality@cpu-int8"] == ends["cost@cpu-int8"] == "blocked"
    assert "this machine lacks a phone" in run.report_path.read_text("utf-8")
    again = ingot.run(**arguments, out=tmp_path / "out")
    assert again.verdict == "unverified"


def test_what_was_measured_before_the_device_went_is_still_known(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ingot.run(**arguments, out=tmp_path / "out").verdict == "pass"
    monkeypatch.setattr(plans, "of_node", lambda _node: (PHONE,))
    assert ingot.run(**arguments, out=tmp_path / "out").verdict == "pass"


def test_validate_finishes_the_delivery_with_what_it_holds_and_leaves_the_manifest_alone(
    arguments: dict[str, Any], delivery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The independent truth is the run's own verdict on the machine that has the device."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(delivery, elsewhere)
    before = (elsewhere / "manifest.json").read_bytes()
    found = validate(elsewhere, Options())
    assert (found.verdict.status, found.exit_code) == ("pass", 0)
    assert (elsewhere / "manifest.json").read_bytes() == before
    monkeypatch.undo()
    measured = ingot.run(**arguments, out=tmp_path / "out").targets["cpu-int8"].metrics
    for name in ("perplexity", "kl_divergence", "top1_agreement", "size_bytes", "parity_max_error"):
        assert found.verdict.metrics[name].value == measured[name].value
        assert found.verdict.metrics[name].reference == measured[name].reference
    assert found.verdict.metrics["decode_ms"].value > 0
    assert found.verdict.metrics["decode_ms"].reference is None
    record = json.loads(found.path.read_text("utf-8"))
    manifest = json.loads(before)
    assert record["schema"] == "ingot/verification/v1"
    assert record["delivery"]["artifact"] == manifest["artifact"]
    assert len(record["quality"]["samples"]["tokens"]) == found.verdict.metrics["perplexity"].n
    second = validate(elsewhere, Options())
    assert {path.stem for path in (elsewhere / "verifications").iterdir()} == {found.id, second.id}


def test_a_bound_on_a_change_of_cost_is_inconclusive_without_the_reference_and_decided_beside_it(
    delivery: Path,
) -> None:
    manifest = json.loads((delivery / "manifest.json").read_text("utf-8"))
    manifest["validation"]["gates"] = [
        {"metric": "decode_ms", "rule": "max_increase", "limit": "900%", "origin": "a test"},
        {"metric": "decode_ms", "rule": "max", "limit": "10s", "origin": "a test"},
    ]
    (delivery / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    alone = validate(delivery, Options())
    assert [check.status for check in alone.verdict.checks] == ["inconclusive", "pass"]
    assert "no reference here" in alone.verdict.checks[0].message
    assert alone.exit_code == 3
    beside = validate(delivery, Options(twin=delivery))
    assert beside.verdict.metrics["decode_ms"].reference is not None
    assert "no reference here" not in beside.verdict.checks[0].message


def test_what_is_no_delivery_or_was_changed_is_refused_and_nothing_is_written(
    delivery: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no manifest\.json"):
        validate(tmp_path, Options())
    with pytest.raises(InputError, match=r"no logits\.json"):
        validate(delivery, Options(reference=tmp_path))
    (delivery / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(CorruptError, match=r"model\.onnx is not what was delivered"):
        validate(delivery, Options())
    assert not (delivery / "verifications").exists()


def test_a_device_that_is_missing_here_too_is_named_with_its_remedy(
    delivery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    real = base.get
    needy = replace(real("validate.quality"), requires=lambda _params: (PHONE,))
    monkeypatch.setattr(base, "get", lambda name: needy if name == needy.name else real(name))
    with pytest.raises(RequirementError, match="lacks a phone") as caught:
        validate(delivery, Options())
    assert caught.value.fix == "plug one in"


@pytest.fixture
def for_phones(delivery: Path) -> Path:
    """The delivery with a manifest that also asks for emulated processors, as those of phones do."""
    manifest = json.loads((delivery / "manifest.json").read_text("utf-8"))
    params = {"processors": ["cortex-a76"], "tokens": 128, "tolerance_percent": 0.5}
    manifest["validation"]["emulated"] = params
    (delivery / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return delivery


def test_what_is_for_phones_stays_unverified_without_emulation_and_names_what_sets_it_up(
    for_phones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = validate(for_phones, Options())
    assert (found.verdict.status, found.exit_code, found.emulated) == ("unverified", 3, ())
    assert found.verdict.metrics["perplexity"].value is not None
    show(found)
    printed = capsys.readouterr().out
    assert "UNVERIFIED" in printed
    assert "this machine lacks the emulation of ARM processors: ingot setup arm-emulation" in printed
    record = json.loads(found.path.read_text("utf-8"))
    assert (record["status"], "emulated" in record) == ("unverified", False)


@pytest.mark.device
def test_what_is_for_phones_is_finished_on_emulated_processors(
    for_phones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = validate(for_phones, Options())
    assert (found.verdict.status, found.exit_code) == ("pass", 0)
    (emulated,) = found.emulated
    assert emulated.processor == "cortex-a76"
    assert emulated.value == pytest.approx(emulated.host, rel=0.005)
    assert emulated.dot_products > 0
    record = json.loads(found.path.read_text("utf-8"))
    entry = record["emulated"]["measurements"]["emulated"]["cortex-a76"]
    assert entry["instructions_per_token"] == emulated.instructions
    show(found)
    assert "emulated cortex-a76: perplexity" in capsys.readouterr().out


def test_what_a_compiler_said_when_it_failed_is_kept_beside_the_manifest(
    delivery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_path: Path) -> str:
        sys.stderr.write("g++: not here\n")
        raise StageError("it does not compile", fix="install g++")

    monkeypatch.setattr(validation, "prepare", failing)
    with pytest.raises(StageError, match="does not compile") as caught:
        validate(delivery, Options())
    assert caught.value.where == str(delivery / "preparing.log")
    assert (delivery / "preparing.log").read_text("utf-8") == "g++: not here\n"


def test_a_delivery_that_passed_takes_its_reference_from_the_store_or_from_where_it_is_told(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    ingot.run(**arguments, out=tmp_path / "out")
    delivery, store = tmp_path / "out" / "cpu-int8", Store.open(tmp_path / "store")
    assert not (delivery / "validation").exists()
    with pytest.raises(InputError, match="does not hold the reference's predictions"):
        validate(delivery, Options())
    assert validate(delivery, Options(store=store)).verdict.status == "pass"
    digest = json.loads((delivery / "manifest.json").read_text("utf-8"))["validation"]["reference"]
    artifact = store.artifact(digest)
    assert artifact is not None
    assert validate(delivery, Options(reference=artifact.path)).verdict.status == "pass"


def test_the_command_prints_the_table_and_exits_as_the_gate_does(delivery: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ingot", "validate", str(delivery), "--store", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Perplexity" in done.stdout
    assert "PASS" in done.stdout
    assert "measured on:" in done.stdout
    shown = json.loads(
        subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    )
    assert shown["status"] == "pass"
    assert Path(shown["path"]).is_file()
    missing = subprocess.run([*command[:4], str(tmp_path)], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr
