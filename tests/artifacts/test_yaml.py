"""YAML with lines: plain values by the core schema, a line for every key, and refusal of everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts import yaml
from ingot.artifacts.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    # PyYAML's own loader takes these three for line breaks, even where its dumper wrote them.
    | st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz_", min_size=1), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(plain)
def test_what_pyyaml_writes_is_read_back_as_it_was(value: object) -> None:
    text = pyyaml.safe_dump(value, allow_unicode=True)
    assert yaml.parse_yaml(text, "x.yaml").value == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("~", None), ("", None), ("null", None),
        ("12", 12), ("-3", -3), ("0x1F", 31), ("0o17", 15), ("007", 7),
        ("1.5", 1.5), ("1e-3", 0.001), ("3.0e9", 3e9), (".5", 0.5), ("-2.", -2.0),
        ("2%", "2%"), ("60MB", "60MB"), ("on", "on"), ("yes", "yes"), ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"), (".nan", ".nan"), (".inf", ".inf"), ("1e999", "1e999"),
        ("1_000", "1_000"),
    ],
)  # fmt: skip
def test_unquoted_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = yaml.scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_scalars_are_text() -> None:
    assert yaml.parse_yaml("[\"1\", 'true', '~']", "x").value == ["1", "true", "~"]


def test_every_key_and_item_knows_its_line() -> None:
    text = "model: m\n\ntargets:\n  cpu:\n    quantize: {method: rtn,\n      bits: 4}\nlist:\n- a\n- b\n"
    written = yaml.parse_yaml(text, "ingot.yaml")
    assert written.where("model") == "ingot.yaml:1"
    assert written.where("targets", "cpu", "quantize", "method") == "ingot.yaml:5"
    assert written.where("targets", "cpu", "quantize", "bits") == "ingot.yaml:6"
    assert written.where("list", 1) == "ingot.yaml:9"


def test_what_was_not_written_has_the_line_of_what_encloses_it() -> None:
    written = yaml.parse_yaml("a:\n  b: 1\n", "f.yaml")
    assert written.where("a", "c") == "f.yaml:1"
    assert written.where("z") == "f.yaml"


def test_aliases_are_read_as_what_they_stand_for() -> None:
    assert yaml.parse_yaml("a: &x [1]\nb: *x\n", "x").value == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "written twice"),
        ("x:\n  a: 1\n  a: 1\n", 3, "'x.a' is written twice"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "tag"),
        ("a: !!str x\n", 1, "tag"),
        ("\n? [1, 2]\n: b\n", 2, "key is not plain text"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a:\n- &x [*x]\n", 2, "inside its anchor"),
        ("a: [1,\nb: 2\n", 3, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, line: int, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        yaml.parse_yaml(text, "f.yaml")
    assert what in caught.value.what
    assert caught.value.where == f"f.yaml:{line}"


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(RecipeError, match="more than"):
        yaml.parse_yaml("\n".join(levels), "bomb.yaml")


@pytest.mark.parametrize("text", ["[" * 5000, "- " * 5000 + "x", "{a: " * 5000])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        yaml.parse_yaml(text, "deep.yaml")


def test_too_many_aliases_are_refused() -> None:
    with pytest.raises(RecipeError, match="aliases"):
        yaml.parse_yaml(f"a: &x 1\nb: [{', '.join(['*x'] * 200)}]", "x.yaml")


def test_a_file_that_cannot_be_a_recipe_is_refused_by_name(tmp_path: Path) -> None:
    large, binary = tmp_path / "large.yaml", tmp_path / "binary.yaml"
    large.write_text("a: " + "x" * yaml.MAX_BYTES)
    binary.write_bytes(b"a: \xff\xfe")
    for path, what in (
        (large, "larger than"),
        (binary, "not UTF-8"),
        (tmp_path / "none.yaml", "there is no file"),
    ):
        with pytest.raises(RecipeError, match=what) as caught:
            yaml.read_yaml(path)
        assert path.name in caught.value.what


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert yaml.read_yaml(path).value == {"a": 1}
