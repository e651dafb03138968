"""The report in a real browser: desktop and phone, light and dark, on paper, a silent console."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ingot.pipeline.report.html import render_html

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is not installed: the page is not looked at"
)

LARGEST_PAGE = 1_000_000
READABLE = 4.5  # WCAG 2.2, criterion 1.4.3
WIDE, PHONE = 1280, 390
# Elements that reach beyond the page, save inside of what scrolls by itself.
STICKING_OUT = """
[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll') && !e.closest('.unseen') && !e.closest('details:not([open])'))
  .filter(e => { const r = e.getBoundingClientRect(); return r.width && r.right > innerWidth + 1; })
  .map(e => e.tagName + '.' + (e.getAttribute('class') || '') + ' ' + (e.textContent || '').slice(0, 40))
"""
# The contrast of every piece of text outside of drawings with the nearest background below it.
FAINT = """
(() => {
  const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || e.closest('svg')) continue;
    const pair = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    const said = walk.currentNode.textContent.trim().slice(0, 40);
    if (contrast < LIMIT) found.push(contrast.toFixed(2) + ' ' + said);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def driver() -> ModuleType:
    """The module `chromium.py` beside this file."""
    name = "ingot_test_chromium"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("chromium.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def browser(driver: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with driver.Chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(samples: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen targets of every status, some of them the cells of a matrix, with long names."""
    own = [
        samples.target("cpu-int8", change=0.001), samples.target("cpu-int4", change=0.019),
        samples.target("nvidia", change=0.09, delivery=None),
        samples.target("arm-mobile", status="unverified", checks=(), explanation="no such device here"),
    ]  # fmt: skip
    cells = [
        samples.target(
            f"cpu[bits={bits},group_size={size}]", change=0.04 / bits, cell_of="cpu", delivery=None,
            cell={"bits": str(bits), "group_size": str(size)},
        )
        for bits in (3, 4)
        for size in (16, 32, 64, 128)
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(samples.report(*own, *cells)), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_the_page_is_quiet_fits_and_can_be_read(
    browser: Any, driver: ModuleType, page: Path, width: int, scheme: str
) -> None:
    events = browser.open(page, width, scheme)
    assert [event for event in events if event["method"] in driver.COMPLAINTS] == []
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked == [page.as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(STICKING_OUT) == []
    assert browser.evaluate(FAINT.replace("LIMIT", str(READABLE))) == []
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 3 * 128) == (scheme == "dark")


def test_a_dozen_targets_are_less_than_a_megabyte(page: Path) -> None:
    assert page.read_text("utf-8").count('<article class="card') == 12
    assert page.stat().st_size < LARGEST_PAGE


def test_every_drawing_names_itself(browser: Any, page: Path) -> None:
    browser.open(page, WIDE, "light")
    unnamed = (
        "[...document.querySelectorAll('svg')].filter(s => !s.querySelector('title')?.textContent).length"
    )
    assert browser.evaluate(unnamed) == 0
    assert browser.evaluate("document.querySelectorAll('svg').length") > 100


def test_the_page_prints(browser: Any, page: Path) -> None:
    browser.open(page, WIDE, "light")
    printed = browser.pdf()
    assert printed.startswith(b"%PDF-")
    assert printed.rstrip().endswith(b"%%EOF")
    assert printed.count(b"/Type /Page\n") > 3


def test_a_page_that_complains_would_be_noticed(browser: Any, driver: ModuleType, tmp_path: Path) -> None:
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    bad = tmp_path / "bad.html"
    bad.write_text(f"<!doctype html>{policy}<script>1</script><p style='width: 3000px'>x</p>")
    events = browser.open(bad, PHONE, "light")
    assert [event for event in events if event["method"] in driver.COMPLAINTS]
    wide = tmp_path / "wide.html"
    wide.write_text(
        "<!doctype html><body style='background: #fff'><p style='width: 3000px; color: #ccc'>x</p>"
    )
    browser.open(wide, WIDE, "light")
    assert browser.evaluate(STICKING_OUT)
    assert browser.evaluate(FAINT.replace("LIMIT", str(READABLE)))
