"""The workflow of the repository: it is YAML, it asks for little, and its commands are commands of Ingot."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ingot.pipeline.cli.app import ingot

WORKFLOW = Path(__file__).parents[2] / ".github" / "workflows" / "ingot.yml"


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    return yaml.safe_load(WORKFLOW.read_text("utf-8"))


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_it_may_read_and_nothing_else(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())


def test_its_actions_are_those_of_the_platform_at_a_named_version(workflow: dict[str, Any]) -> None:
    for step in steps(workflow):
        if "uses" in step:
            name, _, version = step["uses"].partition("@")
            assert name.startswith("actions/")
            assert version


def test_its_commands_and_options_exist(workflow: dict[str, Any]) -> None:
    lines = [shlex.split(step["run"]) for step in steps(workflow) if step.get("run", "").startswith("ingot ")]
    assert {words[1] for words in lines} >= {"demo"}
    for words in lines:
        root = ingot.make_context("ingot", words[1:2], resilient_parsing=True)
        command = ingot.get_command(root, words[1])
        assert command is not None
        command.make_context(words[1], words[2:], parent=root)


def test_the_report_is_kept_also_when_a_gate_fails(workflow: dict[str, Any]) -> None:
    (upload,) = [
        step for step in steps(workflow) if step.get("uses", "").startswith("actions/upload-artifact")
    ]
    assert upload["if"] == "always()"
    (demo,) = [step["run"] for step in steps(workflow) if "ingot demo" in step.get("run", "")]
    assert f"--out {upload['with']['path']}" in demo
