"""The page at /sim/: what people look at while the simulator runs.

It is rendered here as a whole, needs no script, and changes nothing. Labels and other texts come
from users, and every text is escaped.
"""

import base64
import hashlib
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from statistics import median
from typing import TypeVar

from vastsim.faults import Fault
from vastsim.offers import Facts

ROWS = 50
"""Rows of a table on one page."""
TEXT_MAX = 80
"""Characters of a text that are shown."""
REFRESH_SECONDS = 5
MODELS = 6
"""The GPU models that are plotted are those that are offered most often."""
SAMPLES = 240
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 76rem;
  padding: 0 1rem; color: #1f2328; background: #fff }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #d1d9e0 }
th { white-space: nowrap } td { overflow-wrap: anywhere }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #1f2328 }
p { margin: .3rem 0 } a { color: #0969da } .faint { color: #59636e }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"

Cell = str | int | float | None
Row = TypeVar("Row")


class Prices:
    """The median price of a GPU-hour for each model over time, in US dollars."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[str, float]]] = deque(maxlen=SAMPLES)

    def note(self, now: float, offers: Iterable[Facts]) -> None:
        """Keeps the present prices."""
        by_model: dict[str, list[float]] = defaultdict(list)
        for facts in offers:
            by_model[facts.gpu_name].append(float(facts.dph_base) / facts.num_gpus)
        self._samples.append((now, {model: median(one) for model, one in by_model.items()}))

    def of(self, model: str) -> list[tuple[float, float]]:
        """Returns times and prices of a model."""
        return [(at, prices[model]) for at, prices in self._samples if model in prices]


@dataclass(frozen=True)
class Rented:
    """A machine as the page shows it."""

    number: int
    account: int
    label: str | None
    image: str
    gpus: str
    machine: int
    state: str
    is_bid: bool
    usd_per_hour: float
    """While it runs."""
    spent_usd: float


@dataclass(frozen=True)
class Payer:
    """What an account has, and what it has spent."""

    account: int
    credit_usd: float
    spent_usd: float
    machines: Mapping[str, int]
    """By state."""


@dataclass(frozen=True)
class View:
    """All that the page shows."""

    now: float
    seed: int
    speed: float
    offers: Sequence[tuple[int, Facts]]
    rented: Sequence[Rented]
    payers: Sequence[Payer]
    prices: Prices
    settings: Mapping[str, float]
    refusals: Mapping[str, int]
    faults: Mapping[str, Fault]
    pages: Mapping[str, int] = field(default_factory=dict)
    """Which page of `offers` and of `machines` is shown, from 1."""


def page(view: View) -> str:
    """Returns the page."""
    at = datetime.fromtimestamp(view.now, UTC)
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">',
            f"<title>Simulated market</title><style>{STYLE}</style></head><body>",
            "<h1>Simulated market</h1>",
            f'<p class="faint">{at:%Y-%m-%d %H:%M:%S} UTC, seed {view.seed}, '
            f"{view.speed:g} simulated seconds in a second. Read-only.</p>",
            "<h2>Who pays what</h2>",
            _payers(view.payers),
            "<h2>Median price of a GPU-hour in US dollars</h2>",
            plot(view.prices, _models(view.offers)),
            "<h2>Refusals with 429</h2>",
            _refusals(view),
            "<h2>Faults that may strike still</h2>",
            _faults(view.faults),
            f"<h2>Machines ({len(view.rented)})</h2>",
            _machines(view),
            f"<h2>Offers ({len(view.offers)})</h2>",
            _offers(view),
            "</body></html>",
        )
    )


def plot(prices: Prices, models: Sequence[str]) -> str:
    """Returns a picture of the prices of some models."""
    lines = [(model, prices.of(model)) for model in models]
    points = [point for _, line in lines for point in line]
    if not points:
        return "<p>No prices yet.</p>"
    first, last = min(at for at, _ in points), max(at for at, _ in points)
    # A first price is drawn as a line, too.
    until = last if last > first else first + 1.0
    highest = max(usd for _, usd in points) * 1.1 or 1.0
    wide, high, left, top = 640.0, 160.0, 44.0, 8.0

    def x(at: float) -> float:
        return left + wide * (at - first) / (until - first)

    def y(usd: float) -> float:
        return top + high * (1 - usd / highest)

    drawn = ['<svg viewBox="0 0 860 190" role="img" aria-label="prices">']
    for share in (0.0, 0.5, 1.0):
        usd = highest * share
        drawn.append(
            f'<line x1="{left}" x2="{left + wide}" y1="{y(usd):.1f}" y2="{y(usd):.1f}" '
            f'stroke="#d1d9e0"/><text x="0" y="{y(usd) + 4:.1f}">{usd:.2f}</text>'
        )
    for row, ((model, line), colour) in enumerate(zip(lines, COLOURS, strict=False)):
        through = (*line, (until, line[-1][1]))
        drawn_at = " ".join(f"{x(at):.1f},{y(usd):.1f}" for at, usd in through)
        drawn.append(
            f'<polyline points="{drawn_at}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-linejoin="round"/><text x="{left + wide + 12}" y="{top + 14 + row * 20:.0f}">'
            f"{_plain(f'{model} {line[-1][1]:.3f}')}</text>"
            f'<line x1="{left + wide + 2}" x2="{left + wide + 9}" y1="{top + 10 + row * 20:.0f}" '
            f'y2="{top + 10 + row * 20:.0f}" stroke="{colour}" stroke-width="3"/>'
        )
    seconds = f"{last - first:.0f} s"
    drawn.append(f'<text x="{left}" y="{top + high + 16}">the last {seconds}</text></svg>')
    return "".join(drawn)


def _models(offers: Sequence[tuple[int, Facts]]) -> list[str]:
    counts: dict[str, int] = defaultdict(int)
    for _, facts in offers:
        counts[facts.gpu_name] += 1
    return sorted(counts, key=lambda model: (-counts[model], model))[:MODELS]


def _payers(payers: Sequence[Payer]) -> str:
    rows = [
        (
            one.account,
            ", ".join(f"{count} {state}" for state, count in sorted(one.machines.items())),
            one.spent_usd,
            one.credit_usd,
        )
        for one in payers
    ]
    return _table(("account", "machines", "spent $", "credit $"), rows)


def _machines(view: View) -> str:
    """Returns what is rented: what is not destroyed first, and the newest first."""
    ordered = sorted(view.rented, key=lambda one: (one.state == "destroyed", -one.number))
    names = (
        "number",
        "account",
        "label",
        "image",
        "GPUs",
        "machine",
        "state",
        "",
        "$/h",
        "spent $",
    )
    return _paged(
        "machines",
        view,
        names,
        [
            (
                one.number,
                one.account,
                one.label,
                one.image,
                one.gpus,
                one.machine,
                one.state,
                "bid" if one.is_bid else "on demand",
                one.usd_per_hour,
                one.spent_usd,
            )
            for one in _shown("machines", view, ordered)
        ],
        len(ordered),
    )


def _offers(view: View) -> str:
    """Returns what can be rented, the cheapest GPU first."""
    ordered = sorted(
        view.offers, key=lambda one: (float(one[1].dph_base) / one[1].num_gpus, one[0])
    )
    names = ("number", "GPUs", "$/h", "lowest bid", "disk GB", "reliability", "country", "machine")
    return _paged(
        "offers",
        view,
        (*names, "host"),
        [
            (
                number,
                f"{facts.num_gpus} x {facts.gpu_name}",
                float(facts.dph_base),
                float(facts.min_bid),
                facts.disk_space,
                facts.reliability,
                facts.country,
                facts.machine_id,
                facts.host_id,
            )
            for number, facts in _shown("offers", view, ordered)
        ],
        len(ordered),
    )


def _refusals(view: View) -> str:
    settings = ", ".join(f"{name} {value:g}" for name, value in view.settings.items())
    said = f'<p class="faint">{_text(settings)}</p>'
    return said + _table(("endpoint", "refusals"), sorted(view.refusals.items()))


def _faults(faults: Mapping[str, Fault]) -> str:
    rows = []
    for name, one in sorted(faults.items()):
        left = "until withdrawn" if one.count < 0 else one.count
        concerns = one.image or one.path
        rows.append((name, left, one.probability, one.seconds, one.lasts, concerns))
    names = ("fault", "strikes left", "probability", "seconds", "lasts", "only")
    return _table(names, rows)


def _pages(what: str, view: View, count: int) -> tuple[int, int]:
    """Returns which page is shown, and how many there are."""
    pages = max(-(-count // ROWS), 1)
    return min(max(view.pages.get(what, 1), 1), pages), pages


def _shown(what: str, view: View, rows: Sequence[Row]) -> Sequence[Row]:
    shown, _ = _pages(what, view, len(rows))
    return rows[(shown - 1) * ROWS : shown * ROWS]


def _paged(
    what: str, view: View, names: Sequence[str], rows: Sequence[Sequence[Cell]], count: int
) -> str:
    shown, pages = _pages(what, view, count)
    if pages == 1:
        return _table(names, rows)
    links = []
    for word, to in (("earlier", shown - 1), ("later", shown + 1)):
        query = "&amp;".join(f"{name}={at}" for name, at in ({**view.pages, what: to}).items())
        links.append(f'<a href="?{query}">{word}</a>' if 1 <= to <= pages else word)
    told = f"page {shown} of {pages}: {links[0]}, {links[1]}"
    return _table(names, rows) + f'<p class="faint">{told}</p>'


def _table(names: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    if not rows:
        return "<p>None.</p>"
    numeric = [all(isinstance(row[at], int | float) for row in rows) for at in range(len(names))]
    marks = [' class="n"' if one else "" for one in numeric]
    head = "".join(f"<th{mark}>{_text(name)}</th>" for name, mark in zip(names, marks, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{mark}>{_cell(cell)}</td>" for cell, mark in zip(row, marks, strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Cell) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else _text(str(value))


def _text(text: str) -> str:
    """Returns a text of somebody's, with no effect on what stands around it."""
    return f"<bdi>{_plain(text)}</bdi>"


def _plain(text: str) -> str:
    """Returns a text of somebody's, bounded and escaped."""
    if len(text) > TEXT_MAX:
        text = f"{text[: TEXT_MAX - 1]}…"
    return escape(
        "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    )
