"""What a person can get wrong: one clear error each, exit code 2, and nothing half-written anywhere."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Ended, Ingot

    Here = Callable[..., Ended]

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def is_untouched(tmp_path: Path) -> Any:
    """Asserts that a command refused before any work: no run, no artifact, nothing delivered."""

    def check() -> None:
        store = tmp_path / "st"
        assert not (tmp_path / "out").exists()
        for folder in ("runs", "trees", "actions", "tmp", "jobs"):
            assert not store.exists() or list((store / folder).iterdir()) == [], folder

    return check


def edit(path: Path, **changes: object) -> None:
    """Sets keys of a JSON file's object."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def header(weights: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a safetensors file begin, and its header."""
    data = weights.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return 8 + size, json.loads(data[8 : 8 + size])


def truncate(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def pickle(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


def lose_shard(model: Path) -> None:
    _, tensors = header(model / "model.safetensors")
    (model / "model.safetensors").rename(model / SHARD)
    places = {name: SHARD for name in tensors if name != "__metadata__"}
    places["lm_head.weight"] = "model-00002-of-00002.safetensors"
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def enlarge_tokenizer(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zzzz"] = 400
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


BROKEN: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing weights": (
        lambda model: (model / "model.safetensors").unlink(),
        ("no weights", "model.safetensors", "save_pretrained"),
    ),
    "empty weights": (
        lambda model: (model / "model.safetensors").write_bytes(b""),
        ("model.safetensors", "empty", "again"),
    ),
    "truncated weights": (truncate, ("model/model.safetensors", "cut short", "again")),
    "pickled weights": (pickle, ("pytorch_model.bin", "pickle", "safetensors")),
    "code of its own": (
        lambda model: edit(model / "config.json", auto_map={"AutoModel": "modeling.Own"}),
        ("auto_map", "model/config.json", "never run", "without auto_map"),
    ),
    "missing shard": (lose_shard, ("model-00002-of-00002.safetensors is missing", "index.json", "download")),
    "unknown architecture": (
        lambda model: edit(model / "config.json", model_type="lama", architectures=["LamaForCausalLM"]),
        ("'lama'", "model/config.json", "did you mean llama?"),
    ),
    "tokenizer larger than the vocabulary": (
        enlarge_tokenizer, ("'zzzz' has id 400", "vocab_size is 320", "tokenizer.json", "belongs"),
    ),
    "no tokenizer": (
        lambda model: (model / "tokenizer.json").unlink(), ("no tokenizer.json", "save_pretrained"),
    ),
    "no config": (lambda model: (model / "config.json").unlink(), ("config.json cannot be read", "model/")),
    "a config that is not JSON": (
        lambda model: (model / "config.json").write_text('{"model_type": '),
        ("config.json is not JSON", "model/"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_checkpoint_that_cannot_be_used_is_refused_before_any_work(
    here: Here, model: Path, text: Path, is_untouched: Any, case: str
) -> None:
    break_it, words = BROKEN[case]
    break_it(model)
    ended = here(
        "run", "--model", model, "--target", "cpu-int8", "--evaluation", text, "--store", "st", "--out", "out"
    )
    ended.refuses("where:", *words)
    is_untouched()


def test_weights_that_are_not_numbers_are_found_by_the_stage_and_named(
    ingot: Ingot, model: Path, text: Path, tmp_path: Path
) -> None:
    weights = model / "model.safetensors"
    start, tensors = header(weights)
    place = start + tensors["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
    with weights.open("r+b") as file:
        file.seek(place)
        file.write(struct.pack("<2f", float("nan"), float("inf")))
    ended = ingot(
        "run", "--model", model, "--target", "cpu-int8", "--evaluation", text, "--store", "st",
        "--out", "out", "--json",
    )  # fmt: skip
    ended.refuses(
        "model.layers.1.mlp.up_proj.weight holds 2 NaN or infinite values", "model/model.safetensors", "fix:"
    )
    assert (ended.json["verdict"], ended.json["exit_code"]) == ("error", 2)
    assert not (tmp_path / "out" / "cpu-int8").exists()
    assert list((tmp_path / "st" / "trees").iterdir()) == []
    assert list((tmp_path / "st" / "tmp").iterdir()) == []
    assert ingot("verify", "--store", "st").code == 0
    assert ingot("gate", "--store", "st").code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("'held-out.txt' is empty",)),
        ("\n  \n", ("holds no text", "held-out.txt")),
        ("ten bytes.", ("has 10 bytes, too few for one window of 128 tokens", "give a longer text")),
        ('{"txt": "no"}\n', ('the line has no "text"', "held-out.jsonl:1", 'write one {"text"')),
        ('{"text": "yes"}\n{"text": \n', ("held-out.jsonl:2", "not JSON")),
    ],
)
def test_an_evaluation_text_that_measures_nothing_is_refused_before_any_work(
    here: Here, model: Path, tmp_path: Path, is_untouched: Any, content: str, words: tuple[str, ...]
) -> None:
    name = "held-out.jsonl" if content.startswith("{") else "held-out.txt"
    (tmp_path / name).write_text(content)
    ended = here("run", "--model", model, "--evaluation", name, "--store", "st", "--out", "out")
    ended.refuses("where:", *words)
    is_untouched()


def test_a_text_of_fewer_tokens_than_a_window_is_refused_by_the_stage_that_counts_them(
    ingot: Ingot, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("the river ran past the old mill and the miller's house " * 3)
    ended = ingot(
        "run", "--model", model, "--target", "cpu-int8", "--evaluation", "short.txt", "--store", "st",
        "--out", "out", "--set", "cost.repeats=1", "--set", "cost.passes=1",
    )  # fmt: skip
    ended.refuses("tokens, fewer than one window of 128", "short.txt", "give a longer text")
    assert "delivery:  none for cpu-int8 (error)" in ended.out
    assert not (tmp_path / "out" / "cpu-int8").exists()


RECIPES = {
    "modle: model\n": ("modle", "ingot.yaml:1", "did you mean model?"),
    "model: model\ndata:\n  evaluatoin: a.txt\n": ("evaluatoin", "ingot.yaml:3", "did you mean evaluation?"),
    "model: model\nstages: {quantise: rtn}\n": ("stages.quantise", "ingot.yaml:2", "did you mean quantize?"),
    "model: model\nstages:\n  quantize: {method: rtn, bitss: 4}\n": (
        "quantize@cpu.bitss", "ingot.yaml:3", "did you mean bits?",
    ),
    "model: model\nstages: {quantize: {method: rtm}}\n": ("'rtm'", "ingot.yaml:2", "did you mean rtn?"),
    "model: model\nstages: {quantize: {method: rtn, bits: four}}\n": (
        "quantize@cpu.bits: 'four' is not a whole number", "ingot.yaml:2",
    ),
    "model: model\nstages: {quantize: {method: rtn, bits: 5}}\n": (
        "quantize@cpu.bits: 5 is not one of 2, 3, 4, 8", "ingot.yaml:2",
    ),
    "model: model\nstages: {quantize: {method: rtn, sym: 1}}\n": ("1 is not true or false", "ingot.yaml:2"),
    "model: 5\n": ("model: 5 is not text", "ingot.yaml:1", "org/name@revision"),
    "model: model\ntargets: 5\n": ("targets: 5 is not a list or a mapping", "ingot.yaml:2"),
    "model: model\ntargets:\n- cpu\n- cpu-int7\n": ("'cpu-int7'", "ingot.yaml:4", "did you mean cpu-int8?"),
    "model: model\ntargets: {nvidia-sm80: {quantize: fp8}}\n": ("the rule sm.fp8", "ingot.yaml:2", "SM 89"),
    "model: model\ntargets: {cpu: {quantise: rtn}}\n": ("targets.cpu.quantise", "ingot.yaml:2", "quantize?"),
    "model: model\ngates: {perplexiti: {max: 3}}\n": ("perplexiti", "ingot.yaml:2", "mean perplexity?"),
    "model: model\ngates:\n  perplexity: {max_incraese: 2%}\n": ("ingot.yaml:3", "mean max_increase?"),
    "model: model\ngates: {size: {max: 60Mb}}\n": ("'60Mb'", "ingot.yaml:2", "60MB"),
    "model: model\nmeasure: {cost: {repeats: 0}}\n": (
        "repeats: 0 is below 1", "ingot.yaml:2", "fix:   fresh processes a side",
    ),
    "model: model\nstages:\n  prune: {method: structured}\n": (
        "prune: nothing would go", "ingot.yaml:3", "ffn, heads",
    ),
    "model: model\nstages:\n  share: {method: layers}\n": ("neither groups nor every", "ingot.yaml:3"),
    "model: model\nstages:\n  factor:\n    method: svd\n    multiple_of: 4096\n": (
        "factor: no weight would become smaller", "ingot.yaml:5",
    ),
    "model: model\nseed: x\n": ("seed: 'x' is not a whole number", "ingot.yaml:2"),
    "model: model\nmodel: model\n": ("'model' is written twice", "ingot.yaml:2"),
    "model: model\ntargets: [cpu\n": ("not valid YAML", "ingot.yaml:3"),
    "model: modell\n": ("model: 'modell' does not exist", "ingot.yaml:1", "did you mean", "/model?"),
    "- a\n": ("a recipe is a mapping", "ingot.yaml", "begin with model:"),
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_that_is_wrong_is_told_with_its_line_and_the_nearest_name(
    here: Here, model: Path, tmp_path: Path, is_untouched: Any, recipe: str
) -> None:
    (tmp_path / "ingot.yaml").write_text(recipe)
    ended = here("run", "ingot.yaml", "--store", "st", "--out", "out")
    ended.refuses("where:", *RECIPES[recipe])
    is_untouched()


LINES = {
    ("rnu",): ("no command 'rnu'", "did you mean `ingot run`?"),
    ("run",): ("nothing to build was named", "--model DIRECTORY"),
    ("run", "nowhere.yaml"): ("no file nowhere.yaml",),
    ("run", "model"): ("model is a directory, not a recipe", "--model model --target cpu"),
    ("run", "--modle", "model"): ("--modle", "Did you mean '--model'?", "see `ingot run --help`"),
    ("run", "--model", "model", "--target", "cpu-int7"): ("'cpu-int7'", "did you mean cpu-int8?"),
    ("run", "--model", "model", "--target", "nvidia-sm12"): ("'nvidia-sm12'", "did you mean nvidia-sm120?"),
    ("run", "--model", "model", "--set", "quantise.bits=4"): ("quantise", "--set", "did you mean quantize?"),
    ("run", "--model", "model", "--set", "bits=4"): ("'bits=4' is not a setting", "quantize.bits=4"),
    ("run", "--model", "model", "--set", "quantize@cpux.bits=4"): ("'cpux'", "did you mean cpu?"),
    ("run", "--model", "model", "--cores", "0"): ("--cores", "ingot run --help"),
    ("run", "--model", "model", "--memory", "much"): ("--memory: 'much' is not a number", "500MB"),
    ("run", "--model", "model", "--memory", "0"): ("--memory: 0 is below 1 B",),
    ("run", "--model", "model", "--evaluation", "no.txt"): ("no file 'no.txt'",),
    ("run", "--model", "model", "--out", "model/config.json"): ("in the way", "model/config.json"),
    ("demo", "--target", "cpu-int7"): ("'cpu-int7'", "did you mean cpu-int8?"),
    ("plan", "--model", "model/config.json"): ("is not a directory",),
    ("explain", "--model", "model", "quantize@cpux"): ("no node 'quantize@cpux'", "quantize@cpu?"),
    ("stages", "quantize.rtm"): ("no stage 'quantize.rtm'", "did you mean quantize.rtn?"),
    ("targets", "cpu-int7"): ("no target 'cpu-int7'", "did you mean cpu-int8?"),
    ("ls", "--store", "nowhere"): ("no store here", "nowhere"),
    ("gate", "--store", "nowhere"): ("no store here", "nowhere"),
    ("gc", "--store", "nowhere"): ("no store here", "nowhere"),
    ("verify", "--store", "model/config.json"): ("no store here", "model/config.json"),
    ("generate", "model", "a prompt"): ("holds no ingot.json, so it is no delivery", "ingot-out/cpu"),
    ("generate", "model"): ("missing argument 'PROMPT...'", "ingot generate --help"),
}  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_a_command_line_that_is_wrong_is_told_what_would_be_right(
    here: Here, model: Path, is_untouched: Any, line: tuple[str, ...]
) -> None:
    store = (
        () if "--store" in line or line[0] not in ("run", "plan", "explain", "demo") else ("--store", "st")
    )
    here(*line, *store).refuses(*LINES[line])
    assert not Path("nowhere").exists()
    is_untouched()


@pytest.mark.parametrize("line", [("gate",), ("report",), ("report", "--json"), ("show", "abcdef12")])
def test_a_store_without_runs_says_so(here: Here, tmp_path: Path, line: tuple[str, ...]) -> None:
    from ingot.artifacts.store import Store

    Store.open(tmp_path / "st")
    here(*line, "--store", "st").refuses(str(tmp_path / "st"), "fix:")


def test_an_unknown_variable_of_ours_is_refused_and_a_known_one_is_told_as_the_origin(
    here: Here, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_SET__COST__REPEATS", "x")
    here("plan", "--model", model, "--store", "st").refuses("'x'", "where: INGOT_SET__COST__REPEATS")
    monkeypatch.setenv("INGOT_STOER", "x")
    here("plan", "--model", model, "--store", "st").refuses("INGOT_STOER", "did you mean INGOT_STORE?")


def test_with_json_an_error_is_json_on_standard_output_too(here: Here) -> None:
    ended = here("run", "nowhere.yaml", "--store", "st", "--json")
    ended.refuses("no file nowhere.yaml")
    assert (ended.json["verdict"], ended.json["exit_code"]) == ("error", 2)
    assert ended.json["error"]["what"] == "there is no file nowhere.yaml"


def test_a_fault_of_ingot_itself_shows_no_traceback_but_keeps_it_in_a_file(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ingot.pipeline.cli import catalogue

    def fail(_name: str) -> str:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(catalogue, "stage_page", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = here("stages", "load")
    # Not 1, which a CI job takes for a gate that failed.
    assert ended.code == 4
    assert ended.err.startswith("error: Ingot itself failed: ZeroDivisionError: planted\n")
    assert "Traceback" not in ended.err
    (kept,) = tmp_path.glob("ingot-fault-*.txt")
    assert str(kept) in ended.err
    assert "in fail\n" in kept.read_text()


def test_a_place_that_takes_no_deliveries_is_refused_before_any_work(
    here: Here, model: Path, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "cpu-int8").mkdir(parents=True)
    (tmp_path / "out" / "cpu-int8" / "thesis.txt").write_text("mine")
    ended = here(
        "run", "--model", model, "--target", "cpu-int8", "--evaluation", text, "--store", "st", "--out", "out"
    )
    ended.refuses("in the way of a delivery", "out/cpu-int8", "--out")
    assert (tmp_path / "out" / "cpu-int8" / "thesis.txt").read_text() == "mine"
    assert list((tmp_path / "st" / "runs").iterdir()) == []


@pytest.mark.parametrize("option", ["--store", "--out", "--evaluation"])
def test_an_empty_path_is_not_the_working_directory(
    here: Here, model: Path, tmp_path: Path, option: str
) -> None:
    """What a script passes when a variable of its own is not set."""
    here("run", "--model", model, option, "").refuses(option, "the path is empty")
    here("run", "--model", "", "--store", "st").refuses("model: the name is empty")
    assert {path.name for path in tmp_path.iterdir()} <= {"model", "st"}
