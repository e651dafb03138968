"""`ingot run` for architectures that the table does not hold: built, measured, gated, reported, delivered."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .conftest import MEASURE, Workplace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Ended, Ingot

    Build = Callable[[str], tuple[Workplace, Ended]]

pytestmark = pytest.mark.slow

# With a cache, without one, an encoder, an encoder-decoder.
FAMILIES = ("gptj", "openai-gpt", "electra", "marian")


@pytest.fixture(scope="session")
def outside(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Callable[[str], Path],
    held_out: str,
    one_process_executor: type,
) -> Build:
    made: dict[str, tuple[Workplace, Ended]] = {}

    def build(family: str) -> tuple[Workplace, Ended]:
        if family not in made:
            directory = tmp_path_factory.mktemp(family)
            (directory / "held-out.txt").write_text(held_out)
            (directory / "ingot.yaml").write_text(
                f"model: {tiny_checkpoint(family)}\ntargets: [cpu]\n"
                f"data: {{evaluation: held-out.txt}}\n{MEASURE}"
            )
            workplace = Workplace(directory)
            # Workers trace the first of them, this process the others.
            ended = workplace.run() if family == FAMILIES[0] else workplace.run_here(one_process_executor)
            made[family] = workplace, ended
        return made[family]

    return build


@pytest.mark.parametrize("family", FAMILIES)
def test_it_passes_the_gates_of_an_unquantized_model(outside: Build, family: str) -> None:
    workplace, ended = outside(family)
    assert ended.code == 0, ended
    workplace.is_clean()
    target = ended.json["targets"]["cpu"]
    assert target["status"] == "pass"
    metrics = target["metrics"]
    assert 0 < metrics["parity_max_error"]["value"] <= 1e-4
    if family == "electra":
        assert metrics["cosine"]["value"] > 1 - 1e-6
    else:
        assert abs(metrics["perplexity"]["delta"]) < 1e-4
        assert metrics["decode_ms"]["value"] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_plan_report_and_card_say_what_they_are(outside: Build, family: str) -> None:
    workplace, ended = outside(family)
    said = f"{family} is not in Ingot&#39;s table of architectures"
    page = (workplace.directory / ended.json["report"]).read_text()
    assert said in page or said.replace("&#39;", "'") in page
    assert ("every step of decoding computes the whole sequence anew" in page) == (family == "openai-gpt")
    again = workplace.ingot("plan", "ingot.yaml", "--store", "st")
    assert again.code == 0
    assert f"note: {family} is not in Ingot's table of architectures" in again.out
    assert "5 hit" in again.out


def test_a_delivery_without_a_cache_opens_with_the_code_of_its_card(outside: Build) -> None:
    workplace, ended = outside("openai-gpt")
    delivery = workplace.directory / ended.json["targets"]["cpu"]["delivery"]
    about = json.loads((delivery / "ingot.json").read_text())
    assert about["past"] is None
    code = (delivery / "README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=delivery, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_quantizing_it_is_refused_before_anything_runs(
    ingot: Ingot, tiny_checkpoint: Callable[[str], Path]
) -> None:
    for target in ("cpu-int8", "cpu-int4"):
        ended = ingot("run", "--model", tiny_checkpoint("gptj"), "--target", target, "--store", "st")
        ended.refuses("gptj is not in Ingot's table", "--target cpu-fp32", "ingot.families")
    assert not (ingot.directory / "st" / "runs").exists() or not any(
        (ingot.directory / "st" / "runs").iterdir()
    )


def test_a_model_that_cannot_be_traced_ends_as_a_failed_stage_with_the_reason(
    here: Callable[..., Ended], one_process: None, tiny_checkpoint: Callable[[str], Path], text: Path
) -> None:
    ended = here(
        "run", "--model", tiny_checkpoint("mamba"), "--target", "cpu", "--evaluation", text, "--store", "st",
        "--out", "out", "--json",
    )  # fmt: skip
    assert ended.code == 4, ended
    assert ended.json["targets"]["cpu"]["status"] == "error"
    assert "mamba cannot be exported as transformers computes it" in ended.err
    assert "Traceback" not in ended.err
