"""`ingot run` from a checkpoint to a verdict, deliveries and a report, for every family of models."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import jsonschema
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Ended, Workplace

    Built = Callable[[str], tuple[Workplace, Ended]]

NUMBER = {"type": ["number", "null"]}
COUNT = {"type": ["integer", "null"]}
DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def exactly(**properties: object) -> dict[str, object]:
    """The JSON schema of an object with these members, no fewer and no more."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


METRIC = exactly(
    reference=NUMBER, value=NUMBER, delta=NUMBER, low=NUMBER, high=NUMBER,
    n={"type": "integer", "minimum": 1}, tokens=COUNT, documents=COUNT, unit={"type": "string"},
)  # fmt: skip
TARGET = exactly(
    status={"enum": ["pass", "fail", "inconclusive", "unverified", "error"]},
    delivery={"type": ["string", "null"]},
    artifact={"anyOf": [DIGEST, {"type": "null"}]},
    files={
        "type": "array",
        "items": exactly(path={"type": "string"}, size={"type": "integer"}, sha256=DIGEST),
    },
    metrics={"type": "object", "additionalProperties": METRIC},
    verified={"type": "object", "additionalProperties": {"enum": ["host", "emulated", "device", ""]}},
)
# What the design says that `--json` prints.
SUMMARY = exactly(
    run={"type": "string"},
    verdict={"enum": ["pass", "fail", "inconclusive", "unverified", "error"]},
    exit_code={"enum": [0, 1, 2, 3, 4]},
    report={"type": "string"},
    targets={"type": "object", "additionalProperties": TARGET},
)
CAUSAL = {
    "perplexity", "kl_divergence", "top1_agreement", "parity_max_error", "size_bytes", "load_ms",
    "prefill_ms", "decode_ms", "tokens_per_second", "peak_memory_bytes",
}  # fmt: skip
ENCODER = (CAUSAL - {"perplexity", "kl_divergence", "top1_agreement", "decode_ms"}) | {"cosine"}
FAMILIES = ("llama", "qwen3", "gpt2", "bert")
TARGETS = ("cpu-int8", "cpu-int4", "cpu-fp32")


def test_the_json_is_exactly_what_the_design_says_and_progress_goes_to_standard_error(built: Built) -> None:
    workplace, ended = built("llama")
    jsonschema.validate(ended.json, SUMMARY)
    assert ended.json["exit_code"] == ended.code == 0
    assert ended.json["verdict"] == "pass"
    assert (workplace.directory / ended.json["report"]).is_file()
    assert tuple(ended.json["targets"]) == TARGETS
    assert "built  load" in ended.err


@pytest.mark.parametrize("family", FAMILIES)
def test_every_target_of_every_family_passes_and_its_delivery_is_whole(built: Built, family: str) -> None:
    workplace, ended = built(family)
    assert ended.code == 0, ended
    workplace.is_clean()
    for name, target in ended.json["targets"].items():
        assert target["status"] == "pass"
        assert set(target["metrics"]) == (ENCODER if family == "bert" else CAUSAL)
        delivery = workplace.directory / target["delivery"]
        assert delivery == workplace.directory / "out" / name
        files = {file["path"]: file for file in target["files"]}
        assert {"model.onnx", "tokenizer.json", "config.json", "ingot.json"} <= files.keys()
        assert all((delivery / path).stat().st_size == file["size"] for path, file in files.items())
        manifest = json.loads((delivery / "manifest.json").read_text())
        assert (manifest["status"], manifest["artifact"]) == ("pass", target["artifact"])
        assert {"README.md", "report.html"} <= {path.name for path in delivery.iterdir()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_unquantized_artifact_computes_what_pytorch_computes(built: Built, family: str) -> None:
    """Parity covers prefill, decoding with a past, batches and left padding."""
    metrics = built(family)[1].json["targets"]["cpu-fp32"]["metrics"]
    assert 0 < metrics["parity_max_error"]["value"] <= 1e-4
    if family == "bert":
        assert metrics["cosine"]["value"] > 1 - 1e-6
    else:
        assert abs(metrics["perplexity"]["delta"]) < 1e-4
        assert metrics["kl_divergence"]["value"] < 1e-6
        assert metrics["top1_agreement"]["value"] > 0.999


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_bits_are_fewer_bytes_and_a_larger_difference(built: Built, family: str) -> None:
    metrics = [
        built(family)[1].json["targets"][name]["metrics"] for name in ("cpu-fp32", "cpu-int8", "cpu-int4")
    ]
    sizes = [each["size_bytes"]["value"] for each in metrics]
    assert sizes[1] < 0.45 * sizes[0]
    assert sizes[2] < sizes[1]
    errors = [each["parity_max_error"]["value"] for each in metrics]
    assert errors[0] < 0.01 * errors[1] < errors[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_windows_of_the_text_and_intervals_hold_their_estimates(
    built: Built, family: str
) -> None:
    for target in built(family)[1].json["targets"].values():
        name = "cosine" if family == "bert" else "perplexity"
        metric = target["metrics"][name]
        assert metric["documents"] == 24
        # A document has about 400 tokens, a window of these models 128.
        assert 24 * 2 < metric["n"] < 24 * 8
        assert metric["tokens"] > 24 * 200
        assert metric["low"] <= metric["delta"] <= metric["high"]
        assert target["metrics"]["size_bytes"]["n"] == 1


def test_a_delivery_opens_with_the_code_of_its_card_where_ingot_is_not_installed(built: Built) -> None:
    workplace, ended = built("llama")
    delivery = workplace.directory / ended.json["targets"]["cpu-int4"]["delivery"]
    card = (delivery / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    blocked = "import sys; sys.modules['ingot'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + code], cwd=delivery, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_one_line_without_a_recipe_builds_the_same_artifact(workplace: Workplace) -> None:
    recipe = (workplace.directory / "ingot.yaml").read_text()
    model = recipe.splitlines()[0].removeprefix("model: ")
    settings = ("cost.repeats=1", "cost.passes=1", "cost.prefill_tokens=8", "cost.decode_tokens=2")
    ended = workplace.ingot(
        "run", "--model", model, "--target", "cpu-int8", "--evaluation", "held-out.txt", "--store", "st",
        "--out", "other", "--json", *(word for text in settings for word in ("--set", text)),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert set(workplace.states().values()) == {"hit"}
    before = json.loads((workplace.directory / "out" / "gate.json").read_text())
    assert ended.json["targets"]["cpu-int8"]["artifact"] == before["targets"]["cpu-int8"]["artifact"]
    # The profile's own gate is in force here: a fraction of a percent of perplexity is no loss.
    assert (workplace.directory / "other" / "cpu-int8" / "model.onnx").is_file()


def test_the_table_for_a_person_shows_verdict_reasons_and_places(workplace: Workplace) -> None:
    ended = workplace.ingot("run", "ingot.yaml", "--store", "st", "--out", "out")
    assert ended.code == 0
    assert [ended.out.count(words) for words in ("PASS  cpu-int8", "PASS  cpu-int4", "PASS  cpu-fp32")] == [
        1
    ] * 3
    assert "✓ Perplexity" in ended.out
    assert "meets the limit ≤ +50.0" in ended.out
    assert "delivery:  out/cpu-int4\n" in ended.out
    assert "report:    out/report.html\n" in ended.out
    assert "\x1b" not in ended.out + ended.err


class TestUnmetGates:
    """A gate that cannot be met: exit 1, nothing delivered, everything reported."""

    GATE = "gates.perplexity.max_increase=-99%"

    def test_nothing_is_delivered_a_report_is_written_and_the_earlier_delivery_is_set_aside(
        self, workplace: Workplace
    ) -> None:
        out = workplace.directory / "out"
        earlier = (out / "cpu-int8" / "manifest.json").read_bytes()
        ended = workplace.run("--set", self.GATE)
        assert ended.code == ended.json["exit_code"] == 1
        jsonschema.validate(ended.json, SUMMARY)
        assert ended.json["verdict"] == "fail"
        assert {target["delivery"] for target in ended.json["targets"].values()} == {None}
        assert not any((out / name).exists() for name in TARGETS)
        assert (out / "cpu-int8.previous" / "manifest.json").read_bytes() == earlier
        report = json.loads((out / "gate.json").read_text())
        assert (report["verdict"], report["exit_code"]) == ("fail", 1)
        assert "breaks the limit" in (out / "report.html").read_text()
        suites = ET.parse(out / "junit.xml").getroot()
        assert int(suites.get("failures", "0")) == 3
        assert set(workplace.states().values()) == {"hit"}

    def test_nothing_is_delivered_to_an_empty_place_either(self, workplace: Workplace) -> None:
        ended = workplace.ingot("run", "ingot.yaml", "--store", "st", "--out", "fresh", "--set", self.GATE)
        assert ended.code == 1
        assert "✗ Perplexity" in ended.out
        assert "delivery:  none for cpu-int8 (fail)" in ended.out
        fresh = workplace.directory / "fresh"
        assert {path.name for path in fresh.iterdir()} == {
            "report.html",
            "report.md",
            "junit.xml",
            "gate.json",
        }

    def test_with_allow_failing_it_is_delivered_as_unverified_and_exits_the_same(
        self, workplace: Workplace
    ) -> None:
        ended = workplace.run("--set", self.GATE, "--allow-failing")
        assert ended.code == 1
        target = ended.json["targets"]["cpu-int8"]
        assert target["delivery"] == "out/cpu-int8.unverified"
        manifest = json.loads((workplace.directory / target["delivery"] / "manifest.json").read_text())
        assert manifest["status"] == "fail"

    def test_a_later_pass_delivers_again_and_clears_what_was_set_aside(self, workplace: Workplace) -> None:
        workplace.run("--set", self.GATE)
        ended = workplace.run()
        assert ended.code == 0
        out = workplace.directory / "out"
        assert all((out / name / "manifest.json").is_file() for name in TARGETS)
        assert list(out.glob("*.previous")) == []

    def test_an_undecided_gate_exits_with_three(self, workplace: Workplace) -> None:
        ended = workplace.run()
        metric = ended.json["targets"]["cpu-int4"]["metrics"]["perplexity"]
        undecided = f"gates@cpu-int4.perplexity.max_increase={metric['delta']}"
        ended = workplace.run("--set", undecided)
        assert ended.code == ended.json["exit_code"] == 3
        assert ended.json["targets"]["cpu-int4"]["status"] == "inconclusive"
        assert ended.json["targets"]["cpu-int4"]["delivery"] is None
        assert ended.json["targets"]["cpu-int8"]["delivery"] == "out/cpu-int8"


def test_a_stage_that_fails_blocks_its_descendants_alone_and_exits_with_four(workplace: Workplace) -> None:
    workplace.forget("quantize@cpu-int4")
    ended = workplace.run(INGOT_FAULT="publish.written")
    assert ended.code == ended.json["exit_code"] == 4
    states = workplace.states()
    assert states["quantize@cpu-int4"] == "failed"
    assert {name for name, state in states.items() if state == "blocked"} == {
        "export@cpu-int4", "quality@cpu-int4", "cost@cpu-int4",
    }  # fmt: skip
    assert ended.json["targets"]["cpu-int4"]["status"] == "error"
    assert ended.json["targets"]["cpu-int8"]["status"] == "pass"
    assert ended.err.count("error: ") == 1
    assert "error: the worker of quantize@cpu-int4 was killed by signal 9" in ended.err
    assert "fix:" in ended.err


def test_json_in_a_pipe_is_json(workplace: Workplace) -> None:
    command = f"{sys.executable} -P -m ingot {' '.join(workplace.command)} | {sys.executable} -m json.tool"
    done = subprocess.run(
        command, shell=True, cwd=workplace.directory, capture_output=True, text=True, timeout=120
    )
    assert json.loads(done.stdout)["verdict"] == "pass"


class TestClosedPipes:
    """Whoever reads the output may leave; the work, the delivery and the verdict stand."""

    @pytest.mark.parametrize(("limit", "code"), [("50%", 0), ("-99%", 1)])
    def test_a_reader_of_the_table_who_leaves_does_not_change_the_exit_code(
        self, workplace: Workplace, limit: str, code: int
    ) -> None:
        line = ("run", "ingot.yaml", "--store", "st", "--out", "fresh")
        with workplace.ingot.start(*line, "--set", f"gates.perplexity.max_increase={limit}") as process:
            process.stdout.close()
            told = process.stderr.read()
        assert process.returncode == code, told
        assert "Traceback" not in told
        assert "Exception ignored" not in told
        assert (workplace.directory / "fresh" / "cpu-int8").exists() == (code == 0)

    def test_a_reader_of_the_progress_who_leaves_does_not_end_the_run(self, workplace: Workplace) -> None:
        workplace.forget("quantize@cpu-int8")
        with workplace.ingot.start(*workplace.command) as process:
            process.stderr.close()
            told = process.stdout.read()
        assert process.returncode == 0
        assert json.loads(told)["verdict"] == "pass"
        assert workplace.states()["quantize@cpu-int8"] == "built"

    def test_a_listing_that_nobody_reads_is_no_error(self, workplace: Workplace) -> None:
        digest = workplace.outputs()["load"]
        with workplace.ingot.start("show", digest, "--store", "st") as process:
            process.stdout.close()
            told = process.stderr.read()
        assert (process.returncode, told) == (0, "")
