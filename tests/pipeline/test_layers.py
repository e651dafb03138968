"""Layered settings: who has the last word, and how the environment and the command line are read."""

from __future__ import annotations

import re
from pathlib import Path

import ingot
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.errors import RecipeError
from ingot.pipeline import layers
from ingot.targets.rules import Setting

# From weakest to strongest, as the design has it.
RANKS = (
    "profile", "recipe", "recipe target",
    "environment", "environment target", "command line", "command line target",
)  # fmt: skip
BITS = ("quantize", "bits")


def layered(values: dict[str, int]) -> int | None:
    """What `quantize.bits` of the target cpu-int4 comes to, when the layers in ``values`` set it."""
    inner = [[Setting(BITS, values[rank], rank)] if rank in values else [] for rank in RANKS[:3]]
    variables = {
        "environment": "INGOT_SET__QUANTIZE__BITS",
        "environment target": "INGOT_SET__QUANTIZE_AT_CPU_INT4__BITS",
    }
    environ = {name: str(values[rank]) for rank, name in variables.items() if rank in values}
    options = {"command line": "quantize.bits", "command line target": "quantize@cpu-int4.bits"}
    texts = [f"{name}={values[rank]}" for rank, name in options.items() if rank in values]
    overrides = (*layers.command_line(texts), *layers.environment(environ))
    found = layers.resolve([*inner, *layers.outer_layers(overrides, "cpu-int4")]).get(BITS)
    return found.value if found else None  # type: ignore[return-value]


@given(st.dictionaries(st.sampled_from(RANKS), st.integers(0, 99)))
def test_the_strongest_layer_that_speaks_has_the_last_word(values: dict[str, int]) -> None:
    expected = next((values[rank] for rank in reversed(RANKS) if rank in values), None)
    assert layered(values) == expected


def test_an_override_for_one_target_leaves_the_others_alone() -> None:
    overrides = layers.command_line(["quantize@cpu-int4.bits=2"])
    assert layers.resolve(layers.outer_layers(overrides, "cpu-int4"))[BITS].value == 2
    assert BITS not in layers.resolve(layers.outer_layers(overrides, "cpu-int8"))
    assert BITS not in layers.resolve(layers.outer_layers(overrides, None))


def test_of_two_equal_options_the_later_one_holds() -> None:
    overrides = layers.command_line(["quantize.bits=2", "quantize.bits=3"])
    assert layers.resolve(layers.outer_layers(overrides, "cpu"))[BITS].value == 3


def test_a_value_says_who_gave_it() -> None:
    (option,) = layers.command_line(["quantize@cpu.bits=4"])
    (variable,) = layers.environment({"INGOT_SET__GATES__PERPLEXITY__MAX_INCREASE": "1%", "HOME": "/"})
    assert (option.setting.origin, option.target) == ("--set quantize@cpu.bits=4", "cpu")
    assert variable.setting == Setting(
        ("gates", "perplexity", "max_increase"), "1%", "INGOT_SET__GATES__PERPLEXITY__MAX_INCREASE"
    )


def test_another_method_drops_the_parameters_of_weaker_layers() -> None:
    weak = [
        Setting(("quantize", "method"), "rtn", "a"),
        Setting(BITS, 4, "a"),
        Setting(("export", "opset"), 23, "a"),
    ]
    strong = [Setting(("quantize", "ignore"), (), "b"), Setting(("quantize", "method"), "dynamic", "b")]
    held = layers.resolve([weak, strong])
    assert set(held) == {("quantize", "method"), ("quantize", "ignore"), ("export", "opset")}


def test_the_same_method_keeps_the_parameters_of_weaker_layers() -> None:
    method = Setting(("quantize", "method"), "rtn", "a")
    held = layers.resolve(
        [[method, Setting(BITS, 4, "a")], [method, Setting(("quantize", "sym"), False, "b")]]
    )
    assert layers.section(held, "quantize") == {"bits": Setting(BITS, 4, "a"), "sym": held["quantize", "sym"]}


def test_a_gate_of_none_takes_the_weaker_rules_on_its_metric_away() -> None:
    weak = [
        Setting(("gates", "perplexity", "max_increase"), "2%", "a"),
        Setting(("gates", "perplexity", "max"), 30, "a"),
        Setting(("gates", "size", "max"), "60MB", "a"),
    ]
    held = layers.resolve([weak, [Setting(("gates", "perplexity"), "none", "b")]])
    assert set(held) == {("gates", "size_bytes", "max")}


def test_a_metric_is_one_under_its_short_and_its_long_name() -> None:
    weak, strong = ("gates", "size", "max"), ("gates", "size_bytes", "max")
    held = layers.resolve([[Setting(weak, "60MB", "a")], [Setting(strong, "50MB", "b")]])
    assert [setting.value for setting in held.values()] == ["50MB"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=4", 4), ("a.b=1.5", 1.5), ("a.b=true", True), ("a.b=1%", "1%"), ("a.b=x=y", "x=y"),
        ("a.b=[*.w, v]", None), ("a.b=['*.w', v]", ["*.w", "v"]), ("a.b=*.w", "*.w"),
        ("a.b={c: 1}", {"c": 1}),
    ],
)  # fmt: skip
def test_values_are_written_as_in_a_recipe(text: str, value: object) -> None:
    if value is None:
        with pytest.raises(RecipeError, match="YAML"):
            layers.command_line([text])
    else:
        assert layers.command_line([text])[0].setting.value == value


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("quantize.bits", "is not a setting"),
        ("quantize.bits=", "is not a setting"),
        ("bits=4", "is not a setting"),
        ("quantize@.bits=4", "is not a setting"),
        ("quantize.bits.more=4", "does not name a setting"),
        ("gates.perplexity.max_increase.x=4", "does not name a setting"),
        ("gates.perplexity=2%", "'2%' is not a gate"),
    ],
)
def test_a_malformed_option_is_refused(text: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        layers.command_line([text])
    assert what in caught.value.what
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["INGOT_SET__QUANTIZE", "INGOT_SET__", "INGOT_SET__A__B__C"])
def test_a_malformed_variable_is_refused(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        layers.environment({name: "4"})
    assert caught.value.where == name


def test_a_misspelt_variable_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match="INGOT_STOR is not a known one") as caught:
        layers.environment({"INGOT_STOR": "/tmp/x", "PATH": "/bin"})
    assert caught.value.fix == "did you mean INGOT_STORE?"


def test_every_variable_that_the_code_reads_is_a_known_one() -> None:
    root = Path(str(ingot.__file__)).parent
    folders = ("artifacts", "stages", "targets", "pipeline")
    text = "".join(path.read_text() for folder in folders for path in (root / folder).rglob("*.py"))
    read = set(re.findall(r"[\"'](INGOT_[A-Z]+)[\"']", text))
    assert read <= set(layers.VARIABLES)
