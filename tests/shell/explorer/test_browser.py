"""The explorer in a real browser: by keyboard alone, dark and light, narrow, without a script."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.browser import Browser, browser, needs_browser
from tests.shell.explorer.serving import HOSTILE, Serve

pytestmark = needs_browser

PATHS = (
    "/", "/?q=SELECT+MODELS", "/?q=SELECT+MODLES", "/jobs", "/deployments", "/model?name=base",
    "/?" + urlencode({"q": "SELECT MODELS name, accuracy, memory, flops"}),
    "/model?" + urlencode({"name": HOSTILE}),
    "/?" + urlencode({"q": f"SELECT MODELS CORR {HOSTILE}"}),
)  # fmt: skip
TAB, ENTER, ESCAPE, SPACE, DOWN = ("Tab", 9), ("Enter", 13), ("Escape", 27), (" ", 32), (
    "ArrowDown", 40,
)  # fmt: skip
BOX = "document.getElementById('q')"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def page(chromium: Browser) -> Browser:
    chromium.tell("Emulation.setScriptExecutionDisabled", value=False)
    chromium.look()
    chromium.requests.clear()
    chromium.faults.clear()
    return chromium


def focused(page: Browser) -> str:
    return str(page.run("document.activeElement.outerHTML"))


def offered(page: Browser) -> list[str]:
    found: list[str] = page.run(
        "[...document.querySelectorAll('#options:not([hidden]) li')].map(e => e.firstChild.data)"
    )
    return found


def test_a_statement_is_written_completed_and_asked_by_keyboard(
    page: Browser, served: Serve
) -> None:
    page.go(served.address)
    assert page.run(f"document.activeElement === {BOX}")
    page.type("SELECT MOD")
    page.wait_for(lambda: offered(page) == ["MODEL", "MODELS"])
    page.press(*DOWN)
    page.press(*DOWN)
    assert page.run(f"{BOX}.getAttribute('aria-activedescendant')") == "option-1"
    page.press(*TAB)
    assert page.run(f"{BOX}.value") == "SELECT MODELS"
    assert page.run(f"{BOX}.getAttribute('aria-expanded')") == "false"
    page.type(" CORR bas")
    page.wait_for(lambda: offered(page)[:1] == ["base"])
    page.press(*ESCAPE)
    assert offered(page) == []
    page.press(*SPACE, ctrl=True)
    page.wait_for(lambda: offered(page)[:1] == ["base"])
    page.press(*TAB)
    page.type(" >= 10%")
    page.press(*ESCAPE)
    page.press(*ENTER, ctrl=True)
    page.wait("document.querySelector('#answer tbody a') !== null")
    first = "document.querySelector('#answer tbody a')"
    for _ in range(30):
        page.press(*TAB)
        if page.run(f"document.activeElement === {first}"):
            break
    assert page.run(f"document.activeElement === {first}"), focused(page)
    page.press(*ENTER)
    page.wait("document.title.startsWith('tuned') || document.title.startsWith('grafted')")
    assert page.faults == []


def test_the_box_is_no_trap_for_the_tab_key(page: Browser, served: Serve) -> None:
    page.go(served.address)
    page.press(*TAB)
    assert "<button" in focused(page)
    page.press(*TAB, shift=True)
    assert "<textarea" in focused(page)
    page.press(*TAB)
    page.press(*TAB)
    assert "/?q=" in focused(page), "the first example"


def test_the_words_at_fault_are_underlined_in_the_box_until_they_are_changed(
    page: Browser, served: Serve
) -> None:
    statement = "SELECT MODELS\nWHERE task = '🦉' AND memry < 3 MB"
    page.go(f"{served.address}/?{urlencode({'q': statement})}")
    mark = "document.querySelector('#fault mark')"
    assert page.run(f"{mark}.textContent") == "memry"
    shift = page.run(
        f"(() => {{ const a = {mark}.getBoundingClientRect(), b = {BOX}.getBoundingClientRect();"
        " return [a.left - b.left, a.top - b.top, a.width] })()"
    )
    assert 100 < shift[0] < 400
    assert 20 < shift[1] < 60, "in the second line"
    assert page.run(f"{BOX}.selectionStart") == len("SELECT MODELS\nWHERE task = '..' AND memry")
    page.press("Backspace", 8)
    page.type("x")
    assert page.run(f"{mark} === null")
    assert page.run(f"{BOX}.hasAttribute('aria-invalid')") is False
    page.run(
        "[...document.querySelectorAll('.error a')].find(a => a.innerText == 'memory').click()"
    )
    page.wait(f"{BOX} && {BOX}.value.includes('memory')")
    assert page.faults == []


def test_it_works_without_a_script(page: Browser, served: Serve) -> None:
    page.tell("Emulation.setScriptExecutionDisabled", value=True)
    page.go(served.address)
    page.type("SELECT MODELS name, accuracy, memory")
    page.press(*TAB)
    page.press(*ENTER)
    page.wait("document.querySelector('#answer tbody a') !== null")
    assert page.run("document.querySelectorAll('svg a').length") > 2
    page.go(f"{served.address}/?q=SELECT+MODLES")
    assert page.run("document.querySelector('.error mark').textContent") == "MODLES"
    page.tell("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("width", [1100, 390, 320])
def test_no_page_is_wider_than_its_window_or_faulty(
    page: Browser, served: Serve, path: str, width: int
) -> None:
    page.look(width)
    page.go(served.address + path)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.faults == []
    assert page.run("window.hacked === undefined")
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.requests
    for address in page.requests:
        assert address.startswith((served.address, "data:")), address


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_its_ground_dark_and_light(
    page: Browser, served: Serve, path: str, *, dark: bool
) -> None:
    page.look(dark=dark)
    page.go(served.address + path)
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (_light(ground) < 0.1) == dark
    pairs = page.run(CONTRASTS)
    assert len(pairs) > 10
    for words, ink, paper in pairs:
        assert _contrast(ink, paper) >= 4.5, (words, ink, paper)


CONTRASTS = """[...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(
  n => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length
  && !e.closest('svg, [aria-hidden=true]')
).map(e => {
  let ground = e;
  while (ground && /, 0\\)$|transparent/.test(getComputedStyle(ground).backgroundColor)) {
    ground = ground.parentElement;
  }
  return [e.textContent.slice(0, 30), getComputedStyle(e).color,
    getComputedStyle(ground || document.body).backgroundColor];
})"""


def _light(colour: str) -> float:
    """Relative luminance of 'rgb(r, g, b)', as WCAG 2 defines it."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_light(one), _light(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_point_that_is_looked_at_lights_up_its_row(page: Browser, served: Serve) -> None:
    page.go(served.address + PATHS[6])
    page.run("document.querySelector('svg a').focus()")
    assert page.run("document.querySelectorAll('tr.shown').length") == 1


def test_what_changes_by_itself_is_looked_at_again(page: Browser, served: Serve) -> None:
    page.go(served.address + "/deployments")
    answered = "Number(document.querySelector('#live td:nth-child(4)').textContent)"
    before = page.run(answered)
    assert served.infer().status == 200
    page.wait(f"{answered} > {before}")


def test_every_page_has_one_title_and_names_for_what_can_be_used(
    page: Browser, served: Serve
) -> None:
    for path in PATHS:
        page.go(served.address + path)
        assert page.run("document.querySelectorAll('h1').length") == 1
        assert page.run("document.documentElement.lang") == "en"
        nameless = page.run(
            "[...document.querySelectorAll('textarea, select, progress, [role=region]')].filter("
            "e => !(e.labels && e.labels.length) && !e.getAttribute('aria-label')).length"
        )
        assert nameless == 0, path


def test_a_picture_of_it_is_one(page: Browser, served: Serve, tmp_path: Path) -> None:
    page.go(served.address + PATHS[6])
    taken = page.picture(tmp_path / "page.png", whole=False).read_bytes()
    assert struct.unpack(">II", taken[16:24]) == (1100, 800)
    assert len(set(taken)) > 200, "not of one colour"
