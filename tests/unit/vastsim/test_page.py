"""The page at /sim/: what it shows, and that nobody's text can do anything in it."""

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from vastsim.faults import Faults
from vastsim.living import LivingMarket
from vastsim.market import Timing
from vastsim.offers import read_market
from vastsim.page import HEADERS, ROWS, Payer, Prices, Rented, View, page

NOW = 1_800_000_000.0
OFFERS = list(LivingMarket(read_market(), 5000, 1, Timing()).offers.items())
HOSTILE = (
    "<script>document.title='ran'</script>",
    "</bdi></td></table><img src=x onerror=alert(1)>",
    '"><a href="javascript:alert(1)">x</a>',
    "'&amp;&lt;b&gt;",
    "\u202egpj.exe",
    "a\x00b\x1b[31m\ud800\r\n",
    "]]><svg onload=alert(1)>",
    "x" * 5000,
)


def rented(number: int, label: str | None = "team/train", state: str = "running") -> Rented:
    """A machine."""
    return Rented(number, 4711, label, "pytorch:2", "1 x RTX 4090", 40_001, state, False, 0.4, 0.25)


def view(**changes: object) -> View:
    """A page with one of everything."""
    faults, prices = Faults(), Prices()
    faults.ask({"flicker": {"probability": 0.5, "image": "pytorch"}})
    prices.note(NOW - 60, [facts for _, facts in OFFERS])
    prices.note(NOW, [facts for _, facts in OFFERS])
    shown = View(
        now=NOW,
        seed=7,
        speed=1,
        offers=OFFERS,
        rented=[rented(36_000_001)],
        payers=[Payer(4711, 99.5, 0.25, {"running": 1})],
        prices=prices,
        settings={"scale": 1.0},
        refusals={"GET /api/v1/instances": 3},
        faults=faults.asked(),
    )
    return replace(shown, **changes)  # type: ignore[arg-type]


class Parsed(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "line", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def test_it_shows_offers_machines_payers_prices_refusals_and_faults() -> None:
    """What people look for while the simulator runs."""
    parsed = Parsed(page(view()))

    for words in (
        "36000001",
        "team/train",
        "99.5000",
        "GET /api/v1/instances",
        "flicker",
        "seed 7",
    ):
        assert words in parsed.text
    assert parsed.tags["polyline"] == 6
    assert "RTX 4090 0.3" in parsed.text
    assert f"Offers ({len(OFFERS)})" in parsed.text
    assert parsed.open == []


def test_it_is_a_page_also_when_there_is_nothing() -> None:
    """As before the first offer."""
    empty = view(
        offers=[], rented=[], payers=[], prices=Prices(), settings={}, refusals={}, faults={}
    )
    parsed = Parsed(page(empty))
    assert parsed.text.count("None.") == 5
    assert "No prices yet." in parsed.text


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_users_are_shown_and_do_nothing(text: str) -> None:
    """Neither as a label, nor as an image, nor as a model or an option of a fault."""
    faults = Faults()
    faults.ask({"hang": {"path": text}})
    (number, facts), *_ = OFFERS
    hostile = view(
        rented=[replace(rented(1, text), image=text)],
        offers=[(number, replace(facts, gpu_name=text))],
        faults=faults.asked(),
    )
    hostile.prices.note(NOW, [replace(facts, gpu_name=text)])
    plain = view(
        rented=[rented(1)],
        offers=[(number, replace(facts, gpu_name="plain"))],
        faults=faults.asked(),
    )
    plain.prices.note(NOW, [replace(facts, gpu_name="plain")])

    made = page(hostile)
    parsed, expected = Parsed(made), Parsed(page(plain))

    assert parsed.tags == expected.tags
    assert {name for name, _ in parsed.attributes} == {name for name, _ in expected.attributes}
    assert parsed.open == []
    assert made.encode("utf-8")
    assert "x" * 81 not in made
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\ud800-\udfff]", made)


def test_it_allows_nothing_but_its_own_style() -> None:
    """No script, no resource of anybody, no form, no frame."""
    made = page(view())
    (style,) = re.findall("<style>(.*?)</style>", made, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    policy = dict(
        part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    parsed = Parsed(made)
    assert not {"script", "img", "link", "iframe", "form", "object"} & set(parsed.tags)
    links = {value for name, value in parsed.attributes if name in ("href", "src")}
    assert links == {"?offers=2"}
    assert "style" not in {name for name, _ in parsed.attributes}


def test_two_thousand_machines_come_in_pages() -> None:
    """Those that live first; a page that is not there is the nearest one."""
    every = [
        rented(number, f"job-{number}", "destroyed" if number % 2 else "running")
        for number in range(1, 2001)
    ]
    first = page(view(rented=every))
    assert len(first) < 80_000
    assert first.count("job-") == ROWS
    assert "job-2000" in first
    assert "destroyed" not in first

    second = page(view(rented=every, pages={"machines": 2, "offers": 3}))
    assert "job-1900" in second
    links = {value for name, value in Parsed(second).attributes if name == "href"}
    assert links == {
        "?machines=1&offers=3",
        "?machines=3&offers=3",
        "?machines=2&offers=2",
        "?machines=2&offers=4",
    }
    last = page(view(rented=every, pages={"machines": 99_999_999}))
    assert "page 40 of 40" in last
    assert "job-1<" in last
