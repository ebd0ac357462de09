"""The page of a run in a real browser: its pictures have drawn, on a desktop and on a phone."""

import numpy as np
import pytest
from report_page import SCRIPT

from browser import DESKTOP, PHONE, browser
from lxmert_dist.cli import report as command

pytest.importorskip("matplotlib")

ACCENT = {"light": (47, 126, 196), "dark": (104, 170, 230)}
"""Of bars, boxes and heat, see ``page.css``."""
CURVE = (47, 126, 196)
"""The first colour of curves."""
TOO_WIDE = """[...document.body.querySelectorAll('*')].filter(element =>
    !element.closest('.scroll') && !element.closest('svg') &&
    element.getBoundingClientRect().right > innerWidth + 1).map(element => element.outerHTML)"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(scope="module")
def address(pretrained, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    assert command.main([str(pretrained), "--out", str(file), "--samples", "4"]) == 0
    return file.as_uri()


def pixels(shot: np.ndarray, at: dict, colour: tuple[int, int, int]) -> int:
    """How many pixels of an element are nearly of a colour."""
    rows = slice(round(at["y"]), round(at["y"] + at["height"]))
    columns = slice(round(at["x"]), round(at["x"] + at["width"]))
    return int((np.abs(shot[rows, columns].astype(int) - colour).max(axis=-1) < 40).sum())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_picture_has_drawn_and_nothing_is_too_wide(page, address, size, scheme):
    page.open(address, size, scheme)
    shot = page.screenshot()
    assert shot.shape[1] == size[0]
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate(TOO_WIDE) == []
    ground, ink = shot[2, 2].mean(), (0, 0, 0) if scheme == "light" else (230, 233, 238)
    assert ground > 200 if scheme == "light" else ground < 60
    curves = page.rectangles("figure svg")
    assert len(curves) >= 15
    for at in curves:
        assert at["width"] > 240
        assert pixels(shot, at, CURVE) > 60, at["text"]
        assert pixels(shot, at, ink) > 10, "the axes have numbers"
    for selector, number in ((".histogram", 1), (".picture", 4), (".bars .bar", 20)):
        found = page.rectangles(selector)
        assert len(found) >= number
        assert pixels(shot, found[0], ground_over(scheme, selector)) > 20, selector
    cells = page.evaluate(
        "[...document.querySelectorAll('.heat td[style]')].map(cell =>"
        "[Number(cell.textContent), getComputedStyle(cell).backgroundColor])"
    )
    shades = {colour for share, colour in cells if share > 5}
    assert len(shades) > 3, "what is looked at more is darker"


def ground_over(scheme: str, selector: str) -> tuple[int, int, int]:
    """The colour of a picture's marks: bars of lists let the ground through."""
    colour = np.array(ACCENT[scheme])
    if selector == ".bars .bar":
        panel = np.array((255, 255, 255) if scheme == "light" else (29, 33, 40))
        colour = np.rint(0.45 * colour + 0.55 * panel)
    return tuple(int(part) for part in colour)


def test_a_page_without_its_pictures_would_be_found_out(page, address):
    page.open(address)
    page.evaluate("document.head.insertAdjacentHTML('beforeend', '<style id=gone></style>')")
    page.evaluate("document.querySelector('#gone').sheet.insertRule('svg {visibility: hidden}')")
    shot = page.screenshot()
    assert max(pixels(shot, at, CURVE) for at in page.rectangles("figure svg")) == 0


def test_the_page_asks_for_nothing_and_runs_nothing(page, address):
    page.open(address)
    assert [url for url in page.requests if not url.startswith("data:")] == [address]
    assert page.problems == []
    assert page.evaluate("document.scripts.length") == 0
    assert SCRIPT in page.evaluate("document.body.innerText")
    assert page.evaluate("document.title").startswith(SCRIPT)
