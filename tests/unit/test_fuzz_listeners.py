"""What `hack/fuzz listeners` sends is known by its seed, and what it finds is judged."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import fuzz_listeners as fuzz

TARGET = fuzz.Target(
    "HTTP API", "localhost", 1, "", ("/v1/jobs",), ("token",), 4096, {"spec": {"command": ["a"]}}
)
GOOD = fuzz.Figures(
    name="admission",
    answers=Counter({"200": 5, "400": 90, "503": 4, "none": 1}),
    peak_bytes=100 << 20,
    memory_bytes_max=256 << 20,
    honest=(0.01,) * 99 + (0.9,),
    refusals=Counter(),
    stall_seconds=0.1,
    runs=True,
)
LATE = (0.01,) * 98 + (1.1, 1.2)


def test_a_seed_makes_the_same_bodies_again() -> None:
    """So what was found is found again."""
    first, again, other = ([fuzz.made(TARGET, seed, at) for at in range(100)] for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert len({raw for (_, raw, _), _ in first}) > 80


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"runs": False}, "has ended"),
        ({"peak_bytes": 257 << 20}, "257 MiB"),
        ({"answers": Counter({"200": 5, "500": 1})}, "answered 500"),
        ({"answers": Counter({"504": 1})}, "answered 504"),
        ({"honest": LATE}, "waited more than 1 s"),
        ({"honest": (0.01,) * 98 + (float("inf"),) * 2}, "waited more than 1 s"),
    ],
)
def test_what_is_wrong_with_a_listener_is_told(change: dict[str, Any], words: str) -> None:
    """503 is an answer, and so is none to a request that we have cut."""
    found = fuzz.faults(replace(GOOD, **change), judges_time=True)

    assert [words in one for one in found] == ([True] if words else [])


def test_a_busy_machine_is_not_taken_for_a_slow_listener() -> None:
    """Times are judged only where they say something; memory always."""
    slow = replace(GOOD, honest=LATE)

    assert fuzz.faults(slow, judges_time=False) == []
    assert fuzz.faults(replace(slow, peak_bytes=1 << 30), judges_time=False)
