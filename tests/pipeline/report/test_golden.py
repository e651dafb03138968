"""Golden prompts on the page: what is marked, what is said of it, and what is not shown twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ingot.pipeline.measurements import Golden, Parting
from ingot.pipeline.report.golden import golden_texts, remark, visible
from ingot.pipeline.report.html import render_html

if TYPE_CHECKING:
    from types import ModuleType

PARTS = Golden("Once", 8, 2, " upon a", Parting(" time", " there", 0.4), Parting(" hill", " stood", 0.123))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (Golden("a", 24, 24, " b"), "the same 24 tokens"),
        (PARTS, "parts at token 3 of 8: the reference gave its own 40\u202f%, this one 12\u202f%"),
        (
            Golden("a", 8, 0, "", Parting("b", "", 0.9), Parting("c", "")),
            "parts at once: the reference gave its own 90\u202f%, this one next to nothing",
        ),
        (Golden("a", 8, error="no numbers"), "no numbers"),
    ],
)
def test_a_remark_says_where_texts_part_and_how_sure_the_reference_was(text: Golden, said: str) -> None:
    assert remark(text) == said


@pytest.mark.parametrize(("token", "shown"), [("", "end of text"), ("\n\n", "↵↵"), (" ", "␣")])
def test_tokens_without_letters_can_be_seen(token: str, shown: str) -> None:
    assert visible(token) == shown


def test_the_space_before_a_word_is_not_marked_and_the_reference_is_whole(samples: ModuleType) -> None:
    report = samples.report(samples.target("a", golden=(PARTS,)), samples.target("b", golden=()))
    (text,) = golden_texts(report)
    assert (text.prompt, text.reference) == ("Once", "upon a time there")
    (row,) = text.rows
    assert (row.target, row.before, row.marked, row.after) == ("a", "upon a ", "hill", " stood")


def test_a_text_that_ended_is_marked_as_such(samples: ModuleType) -> None:
    ended = Golden("Once", 4, 1, " upon", Parting(" a", " time"), Parting("", ""))
    (text,) = golden_texts(samples.report(samples.target("a", golden=(ended,))))
    assert (text.rows[0].before, text.rows[0].marked) == ("upon", "end of text")


def test_the_page_shows_what_a_model_says_as_text_alone(samples: ModuleType) -> None:
    hostile = Golden(
        "<script>alert(1)</script>",
        4,
        1,
        "<b>",
        Parting("<i>", "", 0.1),
        Parting("<img src=x>", "</dd>", 0.1),
    )
    page = render_html(samples.report(samples.target("a", golden=(hostile,))))
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;img src=x&gt;" in page
    assert "<mark>" in page


def test_models_that_do_not_write_have_no_such_section(samples: ModuleType) -> None:
    assert "<h2>Golden prompts</h2>" not in render_html(samples.report(samples.target("a", golden=())))
    assert "<h2>Golden prompts</h2>" in render_html(samples.report(samples.target("a")))
