"""Commands that look: help, catalogues, the store, plans, reports; what they do not import."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from ingot.pipeline.cli.app import COMMANDS
from ingot.stages import base
from ingot.targets import profile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Ended, Ingot, Workplace

    Here = Callable[..., Ended]

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "numpy", "tokenizers", "safetensors")
WATCHED = (
    "import sys\n"
    "from ingot.pipeline.cli import main\n"
    "try:\n"
    "    main(sys.argv[1:])\n"
    "finally:\n"
    "    found = sorted(set(sys.modules) & set({heavy!r}))\n"
    "    print('heavy:', found, file=sys.stderr)\n"
)


def imported_by(ingot: Ingot, *line: str, heavy: tuple[str, ...] = HEAVY) -> str:
    """Which of the modules ``heavy`` a command line imports, as a list's text."""
    ended = ingot.by(sys.executable, "-P", "-c", WATCHED.format(heavy=heavy))(*line)
    assert ended.code == 0, ended.err
    return ended.err.rpartition("heavy: ")[2].strip()


class TestHelp:
    def test_the_first_page_names_every_command_and_imports_none(self, ingot: Ingot) -> None:
        ended = ingot("--help")
        assert ended.code == 0
        assert all(f"\n  {name} " in ended.out for name in COMMANDS)
        assert imported_by(ingot, "--help", heavy=(*HEAVY, "rich", "yaml", "ingot.pipeline.run")) == "[]"

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself_and_its_options(self, here: Here, command: str) -> None:
        ended = here(command, "--help")
        assert ended.code == 0
        assert ended.out.startswith(f"Usage: ingot {command}")
        assert here(command, "-h").out == ended.out
        # Every option has a sentence, on its own line or the next.
        lines = ended.out.partition("Options:\n")[2].splitlines()
        for number, line in enumerate(lines):
            if line.startswith("  -"):
                rest = lines[number + 1] if number + 1 < len(lines) else ""
                assert "  " in line.strip() or rest.startswith("     "), line

    def test_the_version_is_that_of_the_package(self, here: Here) -> None:
        import ingot

        assert here("--version").out == f"ingot {ingot.__version__}\n"

    def test_without_a_command_the_first_page_is_shown(self, here: Here) -> None:
        ended = here()
        assert "Commands:" in ended.out + ended.err
        assert "error:" not in ended.err


class TestCatalogues:
    def test_all_stages_are_listed_with_what_they_take_and_give(self, here: Here) -> None:
        told = here("stages").out
        for name in base.names():
            assert f"{name:<20} " in told
            assert base.get(name).summary in told
        assert "checkpoint|quantized-checkpoint → onnx" in told

    @pytest.mark.parametrize("name", sorted(base.BUILTIN))
    def test_a_stage_is_shown_with_every_parameter_its_default_and_its_meaning(
        self, here: Here, name: str
    ) -> None:
        from ingot.artifacts.schema import fields

        told = here("stages", name).out
        stage = base.get(name)
        assert told.startswith(f"{name}  (version {stage.version}, {stage.determinism})")
        for key, field in fields(stage.params).items():
            is_shown = not field.metadata["internal"]
            assert (f"\n  {key}: " in told) is is_shown
            assert not is_shown or str(field.metadata["doc"]) in told
        if name == "quantize.rtn":
            assert "  bits: 2 | 3 | 4 | 8  [default 4]\n" in told

    def test_all_targets_are_listed_those_that_can_be_built_first(self, here: Here) -> None:
        rows = here("targets").out.splitlines()
        assert {row.split()[0] for row in rows} == set(profile.names())
        statuses = [row.split()[1] for row in rows]
        assert statuses == sorted(statuses)
        assert set(statuses) <= {"built", "planned"}
        assert all(profile.get(row.split()[0]).summary in row for row in rows)

    def test_a_target_is_shown_with_its_choices_reasons_gates_and_limits(self, here: Here) -> None:
        told = here("targets", "cpu-int4").out
        assert told.startswith("cpu-int4  (built, runtime onnx)\n")
        assert "    quantize.group_size: 32  [profile cpu-int4 (cpu-int4.yaml:5)]\n" in told
        assert "  when task causal-lm, seq2seq-lm, parameters_above 3,000,000,000\n" in told
        assert "    because decoding a model of this size waits for memory" in told
        assert (
            "  when task causal-lm, seq2seq-lm, weights int8\n    gates.perplexity.max_increase: 2%" in told
        )
        assert "\ntakes\n  quantize: rtn, gptq, awq, qat, llmcompressor, gptqmodel\n  weights: int4\n" in told
        assert "  onnxruntime: >=" in told
        assert "  opset: 7 to 24\n" in told

    def test_a_target_that_is_planned_says_so(self, here: Here, tmp_path: Path) -> None:
        (tmp_path / "soon.yaml").write_text("summary: later\nstatus: planned\nruntime: tensorrt\n")
        assert here("targets", "soon.yaml").out.startswith("soon  (planned, runtime tensorrt)\n")

    def test_a_target_explains_what_it_chooses_for_a_model(self, here: Here, tiny_checkpoint: Any) -> None:
        told = here("targets", "nvidia-sm80", "--model", str(tiny_checkpoint("llama"))).out
        assert told.startswith("nvidia-sm80 for llama, ")
        assert "  export.onnx_nvidia\n" in told
        assert "    sm: 80  [profile nvidia-sm80 (limits)]\n" in told
        assert "what runs on nvidia-sm80, through tensorrt\n" in told
        assert "  perplexity.max_increase: 0.5%" in told
        assert "  quality: on this host\n  cost: on the device\n    lacks an NVIDIA GPU of SM 80" in told

    def test_a_target_that_cannot_hold_a_model_says_why(
        self, here: Here, tiny_checkpoint: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "chip.yaml").write_text("summary: c\nextends: nvidia\nlimits: {device_memory: 10kB}\n")
        told = here("targets", "chip.yaml", "--model", str(tiny_checkpoint("llama")))
        assert told.code == 2
        assert "breaks the rule memory.device" in told.err

    def test_a_profile_of_ones_own_is_shown_by_its_path(self, here: Here, tmp_path: Path) -> None:
        text = "summary: the box\nextends: cpu-int8\nmeasure: {cost: {repeats: 9}}\n"
        (tmp_path / "box.yaml").write_text(text)
        told = here("targets", "box.yaml").out
        assert told.startswith("box  (built, runtime onnx)\n  the box\n")
        assert "cost.repeats: 9" in told


class TestStore:
    def test_ls_lists_every_artifact_with_its_node_and_runs_with_their_counts(
        self, workplace: Workplace
    ) -> None:
        listed = workplace.ingot("ls", "--store", "st", "--json").json
        assert {row["digest"] for row in listed} == set(workplace.store.digests())
        assert {row["node"] for row in listed} == set(workplace.outputs())
        table = workplace.ingot("ls", "--store", "st").out.splitlines()
        assert table[0].split() == ["DIGEST", "KIND", "SIZE", "MADE", "NODE"]
        assert [row.split()[0] for row in table[1:]] == [row["digest"][:12] for row in listed]
        workplace.run()
        again, first = workplace.ingot("ls", "--runs", "--store", "st", "--json").json
        nodes = len(workplace.outputs())
        assert (first["state"], first["built"], first["cached"], first["failed"]) == ("done", nodes, 0, 0)
        assert (again["state"], again["built"], again["cached"], again["failed"]) == ("done", 0, nodes, 0)
        assert again["run"] in workplace.ingot("ls", "--runs", "--store", "st").out.splitlines()[1]

    def test_show_finds_an_artifact_by_the_beginning_of_its_digest_and_a_run_by_that_of_its_id(
        self, workplace: Workplace
    ) -> None:
        digest = workplace.outputs()["quantize@cpu-int4"]
        shown = workplace.ingot("show", digest[:8], "--store", "st").json
        assert (shown["digest"], shown["kind"]) == (digest, "quantized-checkpoint")
        assert [action["node"] for action in shown["made_by"]] == ["quantize@cpu-int4"]
        (run,) = workplace.store.runs()
        shown = workplace.ingot("show", run[:15], "--store", "st").json
        assert shown["run"] == run
        assert {node["node"] for node in shown["nodes"]} == set(workplace.outputs())
        workplace.ingot("show", "abc", "--store", "st").refuses("abc", "ingot ls")
        workplace.ingot("show", "", "--store", "st").refuses("ingot ls")

    def test_verify_finds_a_flipped_byte_and_a_second_look_is_clean(self, workplace: Workplace) -> None:
        assert "sound artifacts: " in workplace.ingot("verify", "--store", "st").out
        digest = workplace.outputs()["export@cpu-int8"]
        workplace.flip("export@cpu-int8", "model.onnx")
        ended = workplace.ingot("verify", "--store", "st")
        ended.refuses("set aside as corrupt", digest[:12], "model.onnx", "run the recipe again")
        assert workplace.ingot("verify", "--store", "st").code == 0
        workplace.ingot("verify", digest[:12], "--store", "st").refuses(digest[:12])

    def test_gc_frees_down_to_a_size_and_the_next_run_builds_what_is_missing(
        self, workplace: Workplace
    ) -> None:
        before = workplace.outputs()
        held = workplace.ingot("gc", "--store", "st", "--max-size", "1kB")
        assert held.code == 0
        assert "are held by runs" in held.err
        assert workplace.outputs() == before
        workplace.ingot("gc", "--store", "st", "--max-size", "-1").refuses("--max-size: -1 is below 0 B")
        for node in ("quantize@cpu-int8", "export@cpu-int8"):
            workplace.forget(node)
        freed = workplace.ingot("gc", "--store", "st", "--max-size", "100MB", "--keep-runs", "0")
        assert freed.code == 0
        assert "entries removed: 0" in freed.out
        assert workplace.run().code == 0
        assert workplace.states()["quantize@cpu-int8"] == "built"
        assert workplace.outputs()["export@cpu-int8"] == before["export@cpu-int8"]
        emptied = workplace.ingot("gc", "--store", "st", "--max-size", "0", "--keep-runs", "0")
        assert f"entries removed: {len(set(before.values()))}," in emptied.out
        assert workplace.store.digests() == []


class TestReports:
    def test_the_newest_run_is_reported_in_every_form(self, workplace: Workplace) -> None:
        out = workplace.directory / "out"
        (run,) = workplace.store.runs()
        markdown = workplace.ingot("report", "--markdown", "--store", "st")
        assert markdown.out == (out / "report.md").read_text()
        assert "| Perplexity |" in markdown.out
        junit = workplace.ingot("report", "--junit", "--store", "st").out
        assert ET.fromstring(junit.partition("?>")[2]).get("failures") == "0"
        report = workplace.ingot("report", run[:12], "--json", "--store", "st").json
        assert (report["run"], report["verdict"]) == (run, "pass")

    @pytest.mark.parametrize(("limit", "code", "word"), [("50%", 0, "pass"), ("-99%", 1, "fail")])
    def test_gate_exits_with_the_verdict_of_the_newest_run(
        self, workplace: Workplace, limit: str, code: int, word: str
    ) -> None:
        workplace.run("--set", f"gates.perplexity.max_increase={limit}")
        ended = workplace.ingot("gate", "--store", "st")
        assert ended.code == code
        assert f"{word:<13} cpu-int8\n  {word:<13} Perplexity" in ended.out

    def test_an_unknown_run_is_told_and_one_without_a_report_too(self, workplace: Workplace) -> None:
        workplace.ingot("report", "1999", "--store", "st").refuses("no run '1999'", "ingot ls --runs")
        killed = workplace.store.run_dir("20010101T000000000Z-abcdef")
        workplace.ingot("report", killed.name, "--store", "st").refuses("was not finished", "it resumes")
        assert "unfinished" in workplace.ingot("ls", "--runs", "--store", "st").out
        assert workplace.ingot("show", killed.name, "--store", "st").json["nodes"] == []


def test_a_cached_run_imports_nothing_heavy(workplace: Workplace) -> None:
    workplace.run()
    assert imported_by(workplace.ingot, *workplace.command) == "[]"
    assert imported_by(workplace.ingot, "plan", "ingot.yaml", "--store", "st") == "[]"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_character_set_breaks_the_output_or_loses_a_sign(workplace: Workplace, encoding: str) -> None:
    # A pipe that is read as bytes: what the terminal would get.
    line = f"{sys.executable} -P -m ingot run ingot.yaml --store st --out out > told 2>&1"
    done = subprocess.run(
        line,
        shell=True,
        cwd=workplace.directory,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        timeout=120,
    )
    told = (workplace.directory / "told").read_bytes().decode(encoding, errors="replace")
    assert done.returncode == 0, told
    size = next(line for line in told.splitlines() if " Size " in line)
    assert "?" not in size
    assert ("-" in size) or ("−" in size)
