"""Answers that `hack/fuzz reader` found: together they reach all that reads one."""

from pathlib import Path

import pytest

import fuzz_reader as fuzz

KEPT_BYTES_MAX = 128 << 10


@pytest.mark.parametrize("kept", sorted(fuzz.KEPT.iterdir()), ids=lambda one: one.name)
def test_a_kept_answer_is_read_as_promised(kept: Path) -> None:
    """Read or refused in words that can be shown; what has readable numbers is read."""
    fuzz.played(kept.read_bytes())


@pytest.mark.parametrize("seed", list(fuzz.seeds()), ids=lambda seed: str(seed[:11]))
def test_what_the_fuzzer_begins_with_is_read_as_promised(seed: bytes) -> None:
    """As the provider gives it."""
    fuzz.played(seed)


def test_the_corpus_is_small() -> None:
    """So that it can be read, and played with every run of the tests."""
    assert sum(one.stat().st_size for one in fuzz.KEPT.iterdir()) <= KEPT_BYTES_MAX


ROW = b'{"id": 1, "ports": {"22/tcp": [{"HostPort": "9"}]}}'


@pytest.mark.parametrize(
    ("rows", "total", "status", "must"),
    [
        (ROW, b"1", 200, True),
        (b'{"id": 1, "dph_base": null, "label": []}', b"1", 200, True),
        (ROW, b"1", 503, False),
        (ROW, b"2", 200, False),
        (ROW, b"true", 200, False),
        (b'{"id": 1}, {"id": 1}', b"2", 200, False),
        (b'{"id": -1}', b"1", 200, False),
        (b"7", b"1", 200, False),
    ],
)
def test_what_must_be_read_has_a_number_of_its_own_in_each_row(
    rows: bytes, total: bytes, status: int, *, must: bool
) -> None:
    """Else the fuzzer would ask for too much, or for nothing."""
    body = b'{"instances": [%b], "total_instances": %b}' % (rows, total)

    assert fuzz.must_be_read(fuzz.Given(b"leases %d\n\n%b" % (status, body))) is must
