"""The page at /sim/ in a real browser."""

import json
import re
import struct
import urllib.error
import urllib.request
import zlib
from collections import Counter
from pathlib import Path

import pytest
from tests.integration.parts import Simulator

from localcluster import browser
from vastsim.page import COLOURS

Colour = tuple[int, ...]
LABELS = (
    "<script>document.title='ran'</script>",
    "</td></table><img src=x onerror=\"document.title='ran'\">",
    '"><a href="javascript:1">x</a>',
    "\u202egpj.exe",
)


def colours(picture: bytes) -> Counter[Colour]:
    """Returns how often each colour is in a picture (PNG specification, 9 and 12)."""
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(picture):
        (length,) = struct.unpack_from(">I", picture, at)
        kind = picture[at + 4 : at + 8]
        chunks[kind] = chunks.get(kind, b"") + picture[at + 8 : at + 8 + length]
        at += 12 + length
    width, _, depth, kind_of_pixels = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    assert (depth, kind_of_pixels) in ((8, 2), (8, 6))
    size = 3 if kind_of_pixels == 2 else 4
    raw, row = zlib.decompress(chunks[b"IDAT"]), width * size
    found: Counter[Colour] = Counter()
    above = bytearray(row)
    for begin in range(0, len(raw), row + 1):
        how, line = raw[begin], bytearray(raw[begin + 1 : begin + 1 + row])
        for x in range(row):
            left = line[x - size] if x >= size else 0
            corner = above[x - size] if x >= size else 0
            up = above[x]
            near = min((left, up, corner), key=lambda one: abs(left + up - corner - one))
            line[x] = (line[x] + (0, left, up, (left + up) // 2, near)[how]) & 255
        found.update(zip(*(line[part::size] for part in range(3)), strict=True))
        above = line
    return found


def looked_at(simulator: Simulator, folder: Path, *arguments: str) -> tuple[str, list[str]]:
    """Opens the page and returns its elements, and what the console says."""
    done = browser.browse(folder, "--enable-logging=stderr", *arguments, f"{simulator.url}/sim/")
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def test_people_can_look_at_the_market(simulator: Simulator, tmp_path: Path) -> None:
    """Tables and prices are drawn, labels do nothing, and the browser complains of nothing."""
    simulator.admit_strangers(*LABELS)
    simulator.faults(flicker={"probability": 0.1})

    elements, complaints = looked_at(simulator, tmp_path, "--dump-dom")
    _, more = looked_at(simulator, tmp_path, "--window-size=900,760", "--screenshot=/tmp/page.png")

    assert (complaints, more) == ([], [])
    assert "<title>Simulated market</title>" in elements
    assert not re.search("<(script|img|iframe)", elements)
    assert elements.count("&lt;script&gt;") == 1
    assert elements.count("36000004") == 1
    drawn = colours((tmp_path / "page.png").read_bytes())
    for colour in COLOURS:
        assert drawn[tuple(bytes.fromhex(colour[1:]))] > 100, f"the line of {colour}"


def test_it_is_read_only_and_tells_no_secret(simulator: Simulator) -> None:
    """No key, no environment; and nothing but GET."""
    number = simulator.rent_by_hand("l")
    keys = simulator.ask("GET", "secrets")
    with urllib.request.urlopen(f"{simulator.url}/sim/") as answer:
        text, headers = answer.read().decode(), answer.headers

    assert str(number) in text
    assert not [key for key in json.dumps(keys).split('"') if len(key) > 32 and key in text]
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    for method in ("POST", "PUT", "DELETE"):
        request = urllib.request.Request(f"{simulator.url}/sim/", method=method)
        with pytest.raises(urllib.error.HTTPError, match=r"40[45]") as refused:
            urllib.request.urlopen(request)
        refused.value.close()
