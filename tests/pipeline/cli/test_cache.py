"""What is built again and what is not: texts, parameters, libraries and damage decide, dates do not."""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from ingot.stages import base

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Ended, Workplace

    Here = Callable[..., Ended]


def verdicts(workplace: Workplace) -> dict[str, tuple[str, str, float]]:
    """What the newest run said of each target: status, artifact, and a metric that has no noise."""
    report = json.loads((workplace.directory / "out" / "gate.json").read_text())
    return {
        name: (target["status"], target["artifact"], target["metrics"]["perplexity"]["value"])
        for name, target in report["targets"].items()
    }


class TestRepeats:
    def test_an_identical_run_is_all_hits_starts_no_process_and_ends_alike(
        self, workplace: Workplace
    ) -> None:
        first = json.loads((workplace.directory / "out" / "gate.json").read_text())
        ended = workplace.run()
        assert ended.code == 0
        assert set(workplace.states().values()) == {"hit"}
        assert workplace.started() == []
        assert {name: target["metrics"] for name, target in ended.json["targets"].items()} == {
            name: {metric: {key: found[key] for key in ended.json["targets"][name]["metrics"][metric]}
                   for metric, found in target["metrics"].items()}
            for name, target in first["targets"].items()
        }  # fmt: skip

    def test_a_failing_run_that_is_repeated_fails_again(self, workplace: Workplace) -> None:
        """A cached verdict is no pass: Olive's goals were met by a model that missed them."""
        for _ in range(2):
            assert workplace.run("--set", "gates.perplexity.max_increase=-99%").code == 1

    def test_another_directory_another_date_and_another_thread_count_change_nothing(
        self, workplace: Workplace, tmp_path: Path
    ) -> None:
        recipe = (workplace.directory / "ingot.yaml").read_text()
        model = recipe.splitlines()[0].removeprefix("model: ")
        shutil.copytree(model, tmp_path / "moved")
        for path in (tmp_path / "moved").iterdir():
            os.utime(path, (1_000_000_000, 1_000_000_000))
        os.utime(workplace.directory / "held-out.txt", (1_000_000_000, 1_000_000_000))
        (workplace.directory / "ingot.yaml").write_text(recipe.replace(model, str(tmp_path / "moved")))
        assert workplace.run("--cores", "1").code == 0
        assert set(workplace.states().values()) == {"hit"}

    def test_a_deleted_delivery_is_delivered_again_without_building(self, workplace: Workplace) -> None:
        shutil.rmtree(workplace.directory / "out" / "cpu-int8")
        assert workplace.run().code == 0
        assert workplace.started() == []
        assert (workplace.directory / "out" / "cpu-int8" / "model.onnx").is_file()


class TestChanges:
    def test_an_evaluation_text_changed_in_place_is_measured_again_and_nothing_else_is_built(
        self, workplace: Workplace, one_process_executor: type
    ) -> None:
        before = verdicts(workplace)
        text = workplace.directory / "held-out.txt"
        status = text.stat()
        text.write_text(text.read_text().replace("river", "rivet"))
        os.utime(text, ns=(status.st_atime_ns, status.st_mtime_ns))
        reasons = workplace.plan()
        assert reasons["reference"]["reason"] == "the content of evaluation changed"
        assert (reasons["reference"]["state"], reasons["quality@cpu-int8"]["state"]) == ("run", "pending")
        ended = workplace.run_here(one_process_executor)
        assert ended.code == 0
        built = {name for name, state in workplace.states().items() if state == "built"}
        assert built == {"reference", "quality@cpu-int8", "quality@cpu-int4", "quality@cpu-fp32"}
        after = verdicts(workplace)
        assert all(after[name][1] == before[name][1] and after[name][2] != before[name][2] for name in before)

    @pytest.mark.parametrize(
        ("setting", "reason", "again"),
        [
            ("reference.window=64", "window: 256 → 64", {"reference"}),
            ("reference.max_tokens=500", "max_tokens: 0 → 500", {"reference"}),
            (
                "cost.decode_tokens=3",
                "decode_tokens: 2 → 3",
                {"cost@cpu-int8", "cost@cpu-int4", "cost@cpu-fp32"},
            ),
            ("quantize@cpu-int4.group_size=64", "group_size: 32 → 64", {"quantize@cpu-int4"}),
        ],
    )
    def test_a_changed_parameter_measures_or_builds_again_what_reads_it(
        self, workplace: Workplace, setting: str, reason: str, again: set[str]
    ) -> None:
        plan = workplace.ingot("plan", "ingot.yaml", "--store", "st", "--set", setting, "--json").json
        waiting = {node["name"]: node["reason"] for node in plan["nodes"] if node["state"] == "run"}
        assert waiting == dict.fromkeys(again, reason)

    def test_another_version_of_a_library_builds_again_what_uses_it(
        self, workplace: Workplace, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ingot.pipeline.keys import installed_version

        monkeypatch.chdir(workplace.directory)
        here(*workplace.command)
        genuine = importlib.metadata.version
        try:
            with monkeypatch.context() as patched:
                version = importlib.metadata, "version"
                patched.setattr(*version, lambda name: "1.30.99" if name == "onnxruntime" else genuine(name))
                installed_version.cache_clear()
                ended = here(*workplace.command)
                told = here("explain", "ingot.yaml", "quality@cpu-int8", "--store", "st")
        finally:
            installed_version.cache_clear()
        assert ended.code == 0
        plan = json.loads((workplace.store.root / "runs" / ended.json["run"] / "plan.json").read_text())
        using = {node["name"] for node in plan["nodes"] if "onnxruntime" in base.get(node["stage"]).tools}
        assert len(using) >= 6
        assert {name for name, state in workplace.states().items() if state == "built"} == using
        found = genuine("onnxruntime")
        assert told.out.endswith(f"\ntools.onnxruntime\n  - {found}\n  + 1.30.99\n")

    def test_a_model_changed_in_place_is_loaded_again(self, workplace: Workplace, tmp_path: Path) -> None:
        recipe = (workplace.directory / "ingot.yaml").read_text()
        model = recipe.splitlines()[0].removeprefix("model: ")
        shutil.copytree(model, tmp_path / "own")
        (workplace.directory / "ingot.yaml").write_text(recipe.replace(model, str(tmp_path / "own")))
        assert {node["state"] for node in workplace.plan().values()} == {"hit"}
        weights = tmp_path / "own" / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        node = workplace.plan()["load"]
        assert (node["state"], node["reason"]) == ("run", "the content of model.safetensors changed")


class TestDamage:
    @pytest.mark.parametrize(
        ("node", "file"),
        [
            ("export@cpu-int8", "model.onnx"),
            ("quantize@cpu-int4", "model.safetensors"),
            ("load", "config.json"),
        ],
    )
    def test_a_flipped_byte_is_found_set_aside_and_built_again_with_the_same_verdict(
        self, workplace: Workplace, node: str, file: str
    ) -> None:
        before = verdicts(workplace)
        outputs = workplace.outputs()
        digest = workplace.flip(node, file)
        ended = workplace.run()
        assert ended.code == 0
        assert verdicts(workplace) == before
        assert workplace.states()[node] == "built"
        assert workplace.outputs() == outputs
        assert {path.name[:64] for path in (workplace.store.root / "trash").iterdir()} == {digest}
        workplace.is_clean()

    def test_megabytes_of_noise_in_cached_weights_are_never_served(self, workplace: Workplace) -> None:
        before = verdicts(workplace)
        path = workplace.artifact("load") / "payload" / "model.safetensors"
        path.chmod(0o644)
        path.write_bytes(random.Random(3).randbytes(2 << 20))
        for node in ("export@cpu-int8", "quantize@cpu-int8"):
            workplace.forget(node)
        ended = workplace.run()
        assert ended.code == 0
        assert verdicts(workplace) == before
        states = workplace.states()
        assert {name for name, state in states.items() if state == "built"} == {
            "load", "quantize@cpu-int8", "export@cpu-int8",
        }  # fmt: skip
        workplace.is_clean()

    def test_a_damaged_delivery_is_replaced(self, workplace: Workplace) -> None:
        model = workplace.directory / "out" / "cpu-int8" / "model.onnx"
        sound = model.read_bytes()
        model.chmod(0o644)
        model.write_bytes(sound[:-7] + b"garbage")
        assert workplace.run().code == 0
        assert model.read_bytes() == sound

    @pytest.mark.parametrize("text", ["", "{", '{"schema": "ingot/action/v99"}'])
    def test_a_torn_record_is_a_miss_and_written_again(self, workplace: Workplace, text: str) -> None:
        outputs = workplace.outputs()
        (key,) = (
            event["key"] for event in workplace.events("node_finished") if event["node"] == "export@cpu-int8"
        )
        record = workplace.store.root / "actions" / f"{key}.json"
        record.chmod(0o644)
        record.write_text(text)
        ended = workplace.run()
        assert ended.code == 0, ended.err
        assert workplace.started() == ["export@cpu-int8"]
        assert workplace.outputs() == outputs
        workplace.is_clean()


def test_signals_are_as_before(here: Here) -> None:
    """Commands that run inside a program leave it able to be interrupted."""
    here("stages")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
