"""What driver and controller tell each other: what is read keeps every bound, or is refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import fuzz_messages as fuzz
from gpujob.api.transport import (
    DriverReport,
    message_faults,
    messages_schema,
    read_message,
)
from gpujob.api.words import WORDS_MAX, Words, in_words

SEED = 20_260_105
MESSAGES = 2000
"""Of each kind. `hack/fuzz messages` plays many more, with a fresh seed each time."""


@pytest.mark.parametrize("kind", fuzz.KINDS, ids=lambda kind: kind.__name__)
def test_a_message_is_read_within_its_bounds_or_refused(kind: fuzz.Kind) -> None:
    """A ValidationError or a value as promised, whatever comes; what fits the schema is read."""
    fuzz.play_messages(kind, SEED, MESSAGES)


@pytest.mark.parametrize("kind", fuzz.KINDS, ids=lambda kind: kind.__name__)
def test_the_same_seed_makes_the_same_messages(kind: fuzz.Kind) -> None:
    """So that the seed and the number of a message are enough to see it again."""
    one, other = fuzz.Messages(kind, SEED), fuzz.Messages(kind, SEED)

    assert [one.next() for _ in range(MESSAGES)] == [other.next() for _ in range(MESSAGES)]


REPORT = fuzz.full(fuzz.schema_of(DriverReport))
EVERYTHING = [(kind, fuzz.full(fuzz.schema_of(kind))) for kind in fuzz.KINDS]
"""A message of each kind, with every member that there is."""


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def test_what_is_tried_has_every_member_that_there_is() -> None:
    """What follows puts something else in the place of each."""
    tried = set()
    for kind, message in EVERYTHING:
        read = fuzz.played(kind, json.dumps(message).encode())
        assert not isinstance(read, ValidationError)
        assert read.wire() == message
        holders = [message, *(holder[key] for holder, key in _places(message))]
        tried |= {frozenset(holder) for holder in holders if isinstance(holder, dict)}

    assert tried >= {
        frozenset(one["properties"]) for one in fuzz.SCHEMA["$defs"].values() if "properties" in one
    }


@pytest.mark.parametrize(("kind", "message"), EVERYTHING)
def test_members_that_only_a_newer_side_knows_are_ignored(
    kind: fuzz.Kind, message: dict[str, Any]
) -> None:
    """On every level, whatever they hold; metrics alone may have any name."""
    newer = json.loads(json.dumps(message))
    for holder in [newer, *(holder[key] for holder, key in _places(newer))]:
        if isinstance(holder, dict) and "loss" not in holder:
            holder["newMember"] = {"any": ["\x1b", None, 1e300]}

    read = fuzz.played(kind, json.dumps(newer).encode())
    assert read == fuzz.played(kind, json.dumps(message).encode())
    assert not isinstance(read, ValidationError)


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("hunter2\x1b[2J" + "x" * 20_000, id="a text"),
        pytest.param(-777_888_777_888_777_888_777, id="a number"),
        pytest.param([["hunter2\x1b[2J"]], id="an array"),
        pytest.param([{"hunter2\x1b[2J": "hunter2\x1b[2J"}], id="an array of objects"),
    ],
)
@pytest.mark.parametrize(("kind", "message"), EVERYTHING)
def test_what_is_said_of_a_bad_member_does_not_hold_its_value(
    kind: fuzz.Kind, message: dict[str, Any], secret: object
) -> None:
    """It ends in the log of the side that refused it."""
    copy = json.loads(json.dumps(message))
    for holder, key in _places(copy):
        held, holder[key] = holder[key], secret
        result = fuzz.played(kind, json.dumps(copy).encode())
        holder[key] = held
        assert isinstance(result, ValidationError), key
        said = message_faults(result)
        assert str(key) in said
        assert "hunter2" not in said
        assert "777" not in said
        assert fuzz.printable(said)
        assert len(said) <= WORDS_MAX


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"version": hunter2\x1b[2J}', id="a bare word"),
        pytest.param(b'{"version": "hunter2\x1b[2J"}', id="a raw control character"),
        pytest.param(b'{"hunter2\\ud800": 1}', id="a lone surrogate"),
        pytest.param(b'{"version": "hunter2\xff"}', id="no UTF-8"),
        pytest.param(b'"hunter2\\u001b[2J"', id="a text"),
        pytest.param(b'{"hunter2\\u001b[2J": {}}', id="an unknown member"),
        pytest.param(b'{"hunter2": 1', id="cut short"),
        pytest.param(b'{"version": 1} hunter2\x1b[2J', id="something behind it"),
    ],
)
@pytest.mark.parametrize("kind", fuzz.KINDS, ids=lambda kind: kind.__name__)
def test_what_is_said_of_what_is_no_message_does_not_quote_it(kind: fuzz.Kind, raw: bytes) -> None:
    """Nor does it hold a control character."""
    result = fuzz.played(kind, raw)

    assert isinstance(result, ValidationError)
    assert "hunter2" not in message_faults(result)
    assert fuzz.printable(message_faults(result))


def test_the_bad_name_of_a_metric_is_shown_printable_and_cut() -> None:
    """The workload chose it; where it stands is all that can be said of it."""
    for name in ("\x1b[2J", "loss\u202e", "\u009b31m", "x\n" * 40_000):
        report = REPORT | {"progress": {"metrics": {name: 1}}}
        result = fuzz.played(DriverReport, json.dumps(report).encode())

        assert isinstance(result, ValidationError)
        assert message_faults(result).startswith("progress.metrics")
        assert fuzz.printable(message_faults(result))
        assert len(message_faults(result)) <= WORDS_MAX


@given(
    text=st.text(st.characters(exclude_categories=()))
    | st.text(st.sampled_from("a \t\x1b\u2028\ud800é")),
    longest=st.integers(0, WORDS_MAX),
)
def test_any_text_in_words_may_stand_in_a_message(text: str, longest: int) -> None:
    """Also a text with lone surrogates, as the file system of a machine may give it."""
    said = in_words(text, longest)

    assert len(said) <= longest
    assert TypeAdapter(Words).validate_python(said) == said
    assert (
        read_message(DriverReport, json.dumps(REPORT | {"message": said}).encode()).message == said
    )


def test_long_words_are_cut_to_what_a_message_takes() -> None:
    """By characters, not by bytes."""
    assert in_words("🙂" * 5000) == "🙂" * WORDS_MAX
    assert TypeAdapter(Words).validate_python(in_words("\x00" * 5000)) == "\ufffd" * WORDS_MAX


def test_the_schema_file_is_that_of_the_models() -> None:
    """The bounds that are read against are those that stand in the file."""
    assert messages_schema() == fuzz.SCHEMA


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("version", 2),
        ("version", True),
        ("nodeUid", ""),
        ("nodeUid", "x" * 65),
        ("nodeUid", "a\x1b"),
        ("session", 0),
        ("session", 2**31),
        ("session", 1.0),
        ("phase", "running"),
        ("runSeconds", -1),
        ("runSeconds", float("inf")),
        ("runSeconds", "1"),
        ("message", None),
        ("message", "a\u202eb"),
        ("measured", REPORT["measured"] | {"cudaVersion": "12.4\n"}),
        ("measured", REPORT["measured"] | {"gpus": [{"name": "a\x00", "memoryMib": 1}]}),
        ("measured", REPORT["measured"] | {"gpus": [{"name": "a"}]}),
        ("measured", REPORT["measured"] | {"gpus": REPORT["measured"]["gpus"] * 65}),
        ("progress", {"metrics": {"a\x00": 1}}),
        ("progress", {"metrics": {"": 1}}),
        ("progress", {"metrics": {"a": True}}),
        ("progress", {"metrics": {str(number): 1 for number in range(33)}}),
    ],
)
def test_the_second_reading_of_the_schema_sees_a_broken_bound(member: str, value: object) -> None:
    """Else the comparison above would be worth nothing."""
    schema = fuzz.schema_of(DriverReport)

    assert fuzz.complaint(schema, REPORT) is None
    assert fuzz.complaint(schema, REPORT | {member: value})


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"session": "1"}, {"session": 1}),
        ({"session": 1.0}, {"session": 1}),
        ({"session": 2}, {"session": 1}),
        ({}, {"runNumber": 1}),
        ({"runNumber": 1}, {}),
        ({"runSeconds": True}, {"runSeconds": 1.0}),
        ({"runSeconds": None}, {"runSeconds": 1.0}),
        ({"log": {"stdoutCarried": 1}}, {"log": {"stdoutCarried": 2}}),
        ({"progress": {"metrics": {"a": 1}}}, {"progress": {"metrics": {"b": 1}}}),
        ({"measured": {"gpus": [{}]}}, {"measured": {"gpus": []}}),
    ],
)
def test_the_comparison_with_what_was_sent_sees_a_change(
    sent: dict[str, Any], kept: dict[str, Any]
) -> None:
    """Nothing is converted, made up or lost."""
    assert fuzz.difference(fuzz.schema_of(DriverReport), sent, kept)
