"""The GitHub Action and the GitLab template: their own steps are run, as a runner would, on a tiny model."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ingot.pipeline.report.markdown import MARKER

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
GITLAB = yaml.safe_load((ROOT / "docs" / "ci" / ".gitlab-ci.yml").read_text("utf-8"))
SENTENCE = "The river ran past mill number {} and the road ran with the river to the town. "
TEXT = "\n<|endoftext|>\n".join(SENTENCE.format(number) * 4 for number in range(12))
EXPRESSION = re.compile(r"\$\{\{\s*([\w.-]+)\s*\}\}")
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = rf'{NAME}="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{{LABEL}(?:,{LABEL})*\}})? (-?[0-9.]+(?:e[+-]?[0-9]+)?)")


@dataclass
class Runner:
    """A machine that runs steps: a directory, an `ingot` on the path, and what steps hand on."""

    directory: Path
    variables: dict[str, str]
    outputs: dict[str, str] = field(default_factory=dict)

    def bash(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a script as both platforms do: errors and failures in pipes end it."""
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=self.directory, env={**self.variables, **variables},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def action(self, **given: str) -> list[subprocess.CompletedProcess[str]]:
        """Runs the composite action's own steps (not those that install or that other actions do)."""
        inputs = {name: spec.get("default", "") for name, spec in ACTION["inputs"].items()} | given
        values = {f"inputs.{name}": value for name, value in inputs.items()}
        self.outputs.clear()
        ended: list[subprocess.CompletedProcess[str]] = []
        for step in ACTION["runs"]["steps"]:
            if "ingot" not in step.get("run", ""):
                continue
            code = self.outputs.get("steps.build.outputs.exit-code", "")
            if "always()" not in step.get("if", "") and ended and ended[-1].returncode:
                continue
            if "always()" in step.get("if", "") and code in ("", "2"):
                continue
            handed_on = self.directory / "outputs"
            handed_on.write_text("")
            filled = {
                name: EXPRESSION.sub(lambda m: values[m[1]], text) for name, text in step["env"].items()
            }
            ended.append(self.bash(step["run"], GITHUB_OUTPUT=str(handed_on), **filled))
            for line in handed_on.read_text().splitlines():
                name, _, value = line.partition("=")
                self.outputs[f"steps.{step['id']}.outputs.{name}"] = value
        return ended

    def gitlab(self, **given: str) -> subprocess.CompletedProcess[str]:
        """Runs the template's script, its lines one after another in one shell."""
        variables = {name: str(value) for name, value in GITLAB["variables"].items()} | given
        return self.bash("\n".join(GITLAB["ingot"]["script"]), **variables)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint) -> Runner:
    """A runner with a checkpoint `model`, a recipe that passes and one that fails; built once."""
    directory = tmp_path_factory.mktemp("ci")
    (directory / "model").symlink_to(tiny_checkpoint("llama"), target_is_directory=True)
    (directory / "text.txt").write_text(TEXT)
    recipe = "model: model\ntargets: [cpu-int8]\ndata: {evaluation: text.txt}\n"
    recipe += "measure: {cost: {repeats: 1, passes: 1, prefill_tokens: 8, decode_tokens: 2}}\n"
    (directory / "ingot.yaml").write_text(recipe + "gates: {perplexity: {max_increase: 900%}}\n")
    (directory / "strict.yaml").write_text(recipe + "gates: {size: {max: 1kB}}\n")
    tools = directory / "bin"
    tools.mkdir()
    (tools / "ingot").write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m ingot "$@"\n')
    (tools / "ingot").chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("INGOT_")}
    paths = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "INGOT_STORE": str(directory / "store")}
    return Runner(directory, {**inherited, **paths, "GITHUB_STEP_SUMMARY": ""})


def test_the_action_builds_gates_and_leaves_a_comment(runner: Runner) -> None:
    ended = runner.action(recipe="ingot.yaml", out="ours")
    assert [step.returncode for step in ended] == [0, 0], ended
    assert runner.outputs["steps.build.outputs.exit-code"] == "0"
    comment = (runner.directory / runner.outputs["steps.comment.outputs.file"]).read_text()
    assert comment.startswith(f"{MARKER}\n")
    assert "| cpu-int8 | ✅ pass |" in comment
    assert len(comment.splitlines()) < 15
    assert (runner.directory / "ours" / "cpu-int8" / "manifest.json").is_file()


def test_the_action_fails_where_a_gate_does_and_says_why(runner: Runner) -> None:
    ended = runner.action(recipe="strict.yaml")
    assert [step.returncode for step in ended] == [1, 0], ended
    comment = (runner.directory / "ingot-out" / "comment.md").read_text()
    assert "breaks the limit" in comment


def test_the_action_tells_bad_input_apart_and_comments_on_no_older_run(runner: Runner) -> None:
    (ended,) = runner.action(recipe="missing.yaml", baseline="baseline.json")
    assert ended.returncode == 2
    assert runner.outputs["steps.build.outputs.exit-code"] == "2"


def test_the_action_takes_a_model_and_targets_and_nothing_in_them_is_a_command(runner: Runner) -> None:
    (ended,) = runner.action(model="$(touch stolen)`touch stolen`", target="cpu-int8 cpu-int4")
    assert ended.returncode == 2
    assert "touch stolen" in ended.stderr
    assert not (runner.directory / "stolen").exists()


def test_no_step_of_the_action_pastes_an_input_into_a_script() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
    installs = [step["run"] for step in ACTION["runs"]["steps"] if "pip" in step.get("run", "")]
    assert installs == ['python -m pip install "$ACTION"']
    used = {step["uses"].partition("@")[0] for step in ACTION["runs"]["steps"] if "uses" in step}
    assert used == {"actions/setup-python", "actions/upload-artifact"}


def test_the_gitlab_template_leaves_what_it_promises(runner: Runner) -> None:
    ended = runner.gitlab()
    assert ended.returncode == 0, ended
    job = GITLAB["ingot"]
    reports = job["artifacts"]["reports"]
    for path in (*reports.values(), *job["artifacts"]["paths"]):
        assert (runner.directory / path).exists(), path
    metrics = (runner.directory / reports["metrics"]).read_text()
    shown = json.loads((runner.directory / "ingot-out" / "gate.json").read_text())
    measured = shown["targets"]["cpu-int8"]["metrics"]
    values = openmetrics(metrics)
    for name, result in measured.items():
        assert values[f'ingot_{name}{{target="cpu-int8"}}'] == result["value"]
    assert values['ingot_status{target="cpu-int8",ingot_status="pass"}'] == 1


def openmetrics(text: str) -> dict[str, float]:
    """Samples by name and labels, by the grammar of OpenMetrics 1.0: whole families, no blank line."""
    assert text.endswith("# EOF\n")
    values: dict[str, float] = {}
    seen: list[str] = []
    for line in text.splitlines()[:-1]:
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert kind in ("gauge", "stateset")
            assert family not in seen
            seen.append(family)
        elif line.startswith("# HELP "):
            assert line.split(" ")[2] == seen[-1]
        else:
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            assert match[1] == seen[-1]
            values[line.rpartition(" ")[0]] = float(match[2])
    return values


def test_the_gitlab_job_ends_with_the_verdict(runner: Runner) -> None:
    assert runner.gitlab(RECIPE="strict.yaml").returncode == 1
    assert runner.gitlab(RECIPE="missing.yaml").returncode == 2
    assert GITLAB["ingot"]["allow_failure"] == {"exit_codes": [3]}


def test_baselines_are_saved_shown_compared_and_gated(runner: Runner) -> None:
    assert runner.bash("ingot run ingot.yaml --out ours && ingot baseline save base.json").returncode == 0
    shown = runner.bash("ingot baseline show base.json")
    pinned: dict[str, Any] = json.loads((runner.directory / "base.json").read_text())
    target = pinned["targets"]["cpu-int8"]
    assert pinned["schema"] == "ingot/baseline/v1"
    for digest in ("reference", "evaluation", "artifact"):
        assert target[digest] in shown.stdout
    compared = runner.bash("ingot baseline compare base.json --json")
    assert json.loads(compared.stdout)["cpu-int8"]["metrics"]["perplexity"]["delta"] == 0
    gated = runner.bash("ingot gate --baseline base.json")
    assert gated.returncode == 0, gated
    assert "against the baseline" in gated.stdout
    assert runner.gitlab(BASELINE="base.json").returncode == 0
    ended = runner.action(recipe="ingot.yaml", baseline="base.json", out="ours")
    assert [step.returncode for step in ended] == [0, 0], ended

    # A better artifact of old: this one is worse by more than its bound.
    target["metrics"]["perplexity"]["result"]["value"] /= 20
    shift = [math.log(20) * tokens for tokens in target["tokens"]]
    target["sums"]["perplexity"] = [a - b for a, b in zip(target["sums"]["perplexity"], shift, strict=True)]
    (runner.directory / "better.json").write_text(json.dumps(pinned))
    assert runner.bash("ingot run ingot.yaml --out ours").returncode == 0
    assert runner.bash("ingot gate --baseline better.json").returncode == 1

    target["evaluation"] = "0" * 64
    (runner.directory / "other.json").write_text(json.dumps(pinned))
    for command in ("baseline compare", "gate --baseline"):
        refused = runner.bash(f"ingot {command} other.json")
        assert refused.returncode == 2
        assert "000000000000" in refused.stderr
