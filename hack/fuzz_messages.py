"""Generates valid and invalid messages between driver and controller, and checks how each is read.

`Messages` generates them from the schema file. `played` reads one, and compares the result with
that file by an independent implementation of JSON Schema. tests/unit/test_transport_messages.py
plays a few thousand with a fixed seed. `hack/fuzz messages` plays many more with a fresh seed, and
then runs this under atheris, which keeps the messages that reach new code. atheris cannot look into
pydantic, which is native code. Therefore each kind of complaint and each member that is read counts
as new code too.
"""

import json
import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError

# Only in the environment that hack/fuzz makes.
atheris: Any = import_module("atheris") if find_spec("atheris") else None

with atheris.instrument_imports(include=["gpujob.api"]) if atheris else nullcontext():
    from gpujob.api.transport import (
        REPORT_BYTES_MAX,
        Assignment,
        DriverReport,
        message_faults,
        read_message,
    )
    from gpujob.api.words import WORDS_MAX

ROOT = Path(__file__).resolve().parent.parent
SCHEMA: dict[str, Any] = json.loads(
    (ROOT / "operator/gpujob/api/transport.schema.json").read_text()
)

Kind = type[DriverReport] | type[Assignment]
KINDS: tuple[Kind, ...] = (DriverReport, Assignment)
MESSAGES = 100_000
"""Of each kind, played by hack/fuzz messages before coverage guides it."""

SECRET = "Wq7xCanary"  # noqa: S105
"""A marker in values that bent messages have in the wrong place; no error may quote it."""
NOT_SHOWN = {"host", "user", "hostKey", "command", "workingDir", "authorities"}
"""Members whose text may hold control characters, for which JSON Schema has no word; others not."""
MATCHES = {
    r"^[0-9]{1,2}\.[0-9]{1,2}$": ("0.0", "12.4", "99.99", "00.00", "1.23"),
    r"^[0-9a-f]{64}$": ("0" * 64, "f" * 64, "0123456789abcdef" * 4),
    r"^[a-z0-9.-]+(:[0-9]{1,5})?$": ("docker.io", "localhost:5000", "10.0.0.1:65535"),
    r"^[A-Za-z0-9_.,:@%+=/!$][A-Za-z0-9_.,:@%+=/!$-]*$": ("robot", "a:b,c", "Zm9v+/=", "x!-"),
}
"""Texts for the patterns of the schema."""


class Broken(AssertionError):
    """A message was not read, or not refused, as promised."""


def schema_of(kind: Kind) -> dict[str, Any]:
    """Returns the schema of a kind of message."""
    return _resolved({"$ref": f"#/$defs/{kind.__name__}"})


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema


# --- What must hold ---


def played(kind: Kind, raw: bytes) -> DriverReport | Assignment | ValidationError:
    """Reads a message and returns what came of it; raises Broken if that is not as promised."""
    value: DriverReport | Assignment
    try:
        value = _read(kind, raw)
    except ValidationError as error:
        said = message_faults(error)
        if not said or len(said) > WORDS_MAX or not printable(said):
            raise Broken(f"refused in bad words: {said!r}") from error
        return error
    wire = value.wire()
    if wrong := complaint(schema_of(kind), wire):
        raise Broken(f"a bound is not kept: {wrong}")
    if _read(kind, json.dumps(wire).encode()) != value:
        raise Broken("read again, it is a different message")
    try:
        sent = json.loads(raw.decode(), parse_int=_whole)
    except ValueError as problem:
        raise Broken(f"read though it is no JSON: {problem}") from problem
    if wrong := difference(schema_of(kind), sent, wire):
        raise Broken(f"not read as it was sent: {wrong}")
    return value


def _read(kind: Kind, raw: bytes) -> DriverReport | Assignment:
    if kind is DriverReport:
        return read_message(DriverReport, raw)
    return read_message(Assignment, raw)


def printable(text: str) -> bool:
    """Whether a text may be shown on a terminal."""
    if text.isascii():
        return text.isprintable()
    return not any(unicodedata.category(one).startswith("C") for one in text)


def _whole(digits: str) -> int | float:
    # An unknown member may hold thousands of digits, which int() refuses.
    return int(digits) if len(digits) < 400 else math.inf


def complaint(schema: dict[str, Any], value: object, name: str = "") -> str | None:
    """Returns how a JSON value violates a schema, or None.

    It knows the words that the schema file uses and fails for any other.
    """
    schema = _resolved(schema)
    if "anyOf" in schema:
        wrong = [complaint(one, value, name) for one in schema["anyOf"]]
        return None if None in wrong else wrong[0]
    if "type" in schema and not _is_type(value, schema["type"]):
        return f"{name or 'the message'} is no {schema['type']}"
    for word, bound in schema.items():
        if not WORDS[word](value, bound):
            return f"{name or 'the message'}: {word}"
    if isinstance(value, str) and name not in NOT_SHOWN and not printable(value):
        return f"{name or 'a text'} is not printable"
    if isinstance(value, list) and "items" in schema:
        return _first(complaint(schema["items"], one, name) for one in value)
    if isinstance(value, dict):
        members, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key, one in value.items():
            inner = members.get(key, others)
            if inner is None:
                continue  # Unknown members may be anything; `difference` sees that none is kept.
            if not printable(key):
                return f"{name} has a name that is not printable"
            if bad := complaint(inner, one, key):
                return bad
    return None


def _is_type(value: Any, wanted: str) -> bool:
    if wanted == "integer":
        return type(value) is int
    if wanted == "number":
        return type(value) is int or (type(value) is float and math.isfinite(value))
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, types[wanted])


def _anything(value: Any, bound: Any) -> bool:
    return True


WORDS: dict[str, Callable[[Any, Any], bool]] = {
    "title": _anything,
    "description": _anything,
    "default": _anything,
    "type": _anything,
    "properties": _anything,
    "additionalProperties": _anything,
    "items": _anything,
    "anyOf": _anything,
    "const": lambda value, bound: type(value) is type(bound) and value == bound,
    "enum": lambda value, bound: value in bound,
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "minLength": lambda value, bound: len(value) >= bound,
    "maxLength": lambda value, bound: len(value) <= bound,
    "pattern": lambda value, bound: re.fullmatch(bound.removesuffix("$"), value) is not None,
    "minItems": lambda value, bound: len(value) >= bound,
    "maxItems": lambda value, bound: len(value) <= bound,
    "propertyNames": lambda value, bound: all(complaint(bound, key) is None for key in value),
    "maxProperties": lambda value, bound: len(value) <= bound,
    "required": lambda value, bound: all(key in value for key in bound),
}
"""What the words of JSON Schema mean; `complaint` itself sees to those that hold here."""


def difference(schema: dict[str, Any], sent: object, kept: object, name: str = "") -> str | None:
    """Returns where the wire form of what was read is not what was sent, or None.

    What the schema does not know was dropped, what was not sent has its default, and a number of
    the type `number` may have become a float: nothing else may differ.
    """
    schema = _resolved(schema)
    if "anyOf" in schema:
        schema = _resolved(schema["anyOf"][0])
    if isinstance(sent, dict) and isinstance(kept, dict):
        if "properties" not in schema:
            if sent.keys() != kept.keys():
                return f"{name} has other members"
            return _first(difference({}, sent[key], kept[key], name) for key in sent)
        if not kept.keys() <= schema["properties"].keys():
            return f"{name or 'the message'} has members that the schema does not know"
        return _first(
            difference(inner, _sent(sent, key, inner), kept.get(key), key)
            for key, inner in schema["properties"].items()
        )
    if isinstance(sent, list) and isinstance(kept, list):
        if len(sent) != len(kept):
            return f"{name} has another length"
        pairs = zip(sent, kept, strict=True)
        return _first(difference(schema["items"], one, other, name) for one, other in pairs)
    is_number = type(sent) is int and type(kept) is float
    is_same = is_number or type(sent) is type(kept)
    return None if is_same and sent == kept else f"{name}: {sent!r} became {kept!r}"


def _sent(members: dict[str, object], name: str, schema: dict[str, Any]) -> object:
    unsent = schema.get("default", {} if "additionalProperties" in schema else None)
    return members.get(name, unsent)


@cache
def _field(name: str) -> str:
    return re.sub(r"(?=[A-Z])", "_", name).lower()


def _first(found: Any) -> str | None:
    return next((one for one in found if one is not None), None)


# --- Good messages ---

LETTERS = "abc XYZ 019 .-_/:\"'\\<>&%$ äß é ∑ 漢字 🙂 \u00a0"


def valid(schema: dict[str, Any], random: Random) -> Any:
    """Returns a value that satisfies a schema; every text in it is printable."""
    schema = _resolved(schema)
    if "anyOf" in schema:
        some, *others = schema["anyOf"]
        return valid(some if random.random() < 0.8 else random.choice(others), random)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return random.choice(schema["enum"])
    return MAKERS[schema["type"]](schema, random)


def _object(schema: dict[str, Any], random: Random) -> dict[str, Any]:
    required = schema.get("required", ())
    made = {
        name: valid(inner, random)
        for name, inner in schema.get("properties", {}).items()
        if name in required or random.random() < 0.5
    }
    if "additionalProperties" in schema:
        for _ in range(_size(0, schema["maxProperties"], random)):
            name = _string(schema["propertyNames"], random)
            made[name] = valid(schema["additionalProperties"], random)
    return made


def _array(schema: dict[str, Any], random: Random) -> list[Any]:
    size = _size(schema.get("minItems", 0), schema["maxItems"], random)
    few = [valid(schema["items"], random) for _ in range(min(size, 3))]
    return few + few[:1] * (size - len(few))


def _size(least: int, most: int, random: Random) -> int:
    return most if random.random() < 0.03 else least + random.randrange(3)


def _string(schema: dict[str, Any], random: Random) -> str:
    if "pattern" in schema:
        return random.choice(MATCHES[schema["pattern"]])
    least, most = schema.get("minLength", 0), schema["maxLength"]
    chance = random.random()
    size = least if chance < 0.05 else most if chance < 0.1 else random.randint(max(least, 1), 12)
    start = random.randrange(len(LETTERS))
    return (LETTERS[start:] + LETTERS * (size // len(LETTERS) + 1))[:size]


def _integer(schema: dict[str, Any], random: Random) -> int:
    least, most = schema["minimum"], schema["maximum"]
    return random.choice((least, least + 1, most - 1, most, random.randint(least, most)))


def _a_number(schema: dict[str, Any], random: Random) -> int | float:
    least, most = schema["minimum"], schema["maximum"]
    some = random.uniform(least, most)
    return random.choice((least, most, float(most), some, some, int(some), 5e-324, -0.0, 0.1))


MAKERS: dict[str, Callable[[dict[str, Any], Random], Any]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _a_number,
    "boolean": lambda schema, random: random.random() < 0.5,
    "null": lambda schema, random: None,
}


def full(schema: dict[str, Any]) -> Any:
    """Returns a value that satisfies a schema and has every member; it is always the same."""
    schema = _resolved(schema)
    if "anyOf" in schema:
        return full(schema["anyOf"][0])
    if schema.get("type") == "array":
        return [full(schema["items"])]
    if schema.get("type") != "object":
        return valid(schema, Random(0))
    made = {name: full(inner) for name, inner in schema.get("properties", {}).items()}
    if "additionalProperties" in schema:
        made["loss"] = full(schema["additionalProperties"])
    return made


# --- Bent messages: something in them is not as it should be ---


class Twin(str):
    """The name of a member that occurs a second time in an object."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def _bounds(schema: Any, words: tuple[str, ...]) -> set[Any]:
    if isinstance(schema, list):
        return set().union(*(_bounds(one, words) for one in schema))
    if not isinstance(schema, dict):
        return set()
    found = {schema[word] for word in words if isinstance(schema.get(word), int | float)}
    return found.union(*(_bounds(one, words) for one in schema.values()))


NUMBERS = [
    *(math.nan, math.inf, -math.inf, 1.5, -0.0, 5e-324, 2**31, 2**63, 2**64, 10**400, -(10**400)),
    *sorted(
        near
        for bound in _bounds(SCHEMA, ("minimum", "maximum"))
        for near in (bound - 1, bound, bound + 1, -bound, math.nextafter(bound, math.inf))
    ),
]
LENGTHS = sorted(
    near
    for bound in _bounds(SCHEMA, ("minLength", "maxLength"))
    for near in (bound, bound + 1)
    if bound
)
SIZES = sorted(bound + 1 for bound in _bounds(SCHEMA, ("maxItems", "maxProperties")))
TOKENS = {
    f"~{number}~": text
    for number, text in enumerate(
        (
            *("1e999", "-1e999", "1e-999", "1.0", "1E0", "-0", "0.0", "1e2"),
            *("01", "+1", "1.", ".5", "0x1", "1_0", "--1", "1e", "NaN", "-Infinity", "nan", "True"),
            *("9" * 30, "-" + "9" * 30, "9" * 4301, "9" * 20_000, "0." + "3" * 20_000),
            *("[" * depth + "]" * depth for depth in (5, 100, 190, 250, 20_000)),
            *('{"a":' * depth + "1" + "}" * depth for depth in (5, 100, 190, 250, 5_000)),
            *('"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d"', '"\\u00"', '"\\x41"', "'a'", '"'),
            *('"\x00"', '"\x1b[2J"', '"\n"', '"\\u0000"', "", " ", "//", "undefined", "[,]", "{,}"),
        )
    )
}
"""What json.dumps does not write, by the text that is replaced by it afterwards."""
MARKS = [chr(number) for number in (*range(32), 127, 0x85, 0x9B, 0xAD, 0x200B, 0x202E, 0x2028)]
MARKS += ["\ufeff", "\ufffe", "\ue000", "\U000e0001", "\ud800", "\udfff", "\u0301", "\U0010ffff"]
ODD = (
    *("null", "true", "false", "0", "1", "-1", "1.5", '""', '"0"', '"1"', '"true"'),
    *("[]", "{}", "[null]", "[[]]", '{"":0}'),
)
OTHER_NAMES = ("x", "", "__class__", "__proto__", "$ref", "model_config", "a\x00b", "\u202e", "é")


def _odd(random: Random) -> Any:
    return json.loads(random.choice(ODD))


def _any_number(random: Random) -> Any:
    return random.choice(NUMBERS)


def _token(random: Random) -> Any:
    return random.choice(tuple(TOKENS))


def _long(random: Random) -> Any:
    size = random.choice(LENGTHS) if random.random() < 0.9 else REPORT_BYTES_MAX
    return (SECRET + "é" * size)[:size]


def _marked(random: Random) -> Any:
    return SECRET + random.choice(MARKS) + "[2J"


def _many(random: Random) -> Any:
    size = random.choice(SIZES)
    one = random.choice((0, 0.5, "a", None, {"name": "a", "memoryMib": 1}))
    return [one] * size if random.random() < 0.5 else dict.fromkeys(map(str, range(size)), one)


def _instead(value: object, random: Random) -> Any:
    others: tuple[Callable[[Random], Any], ...]
    others = (_odd, _odd, _any_number, _token, _token, _long, _marked, _many)
    if random.random() < 0.5:
        # The more so what is close to what belongs there.
        if isinstance(value, int | float):
            others = (_any_number,)
        elif isinstance(value, str):
            others = (_long, _marked, _marked)
        elif isinstance(value, dict | list):
            others = (_many,)
    return random.choice(others)(random)


def bend(document: Any, random: Random) -> Any:
    """Changes one place in a JSON document and returns it."""
    slots = [(None, None), *_slots(document)]
    holder, key = random.choice(slots)
    if holder is None:
        if random.random() < 0.1:
            return random.choice(([document], _odd(random), _any_number(random), _token(random)))
        holder, key = random.choice(slots[1:] or slots)
    if holder is None:
        return document
    value, chance = holder[key], random.random()
    if chance < 0.5:
        holder[key] = _instead(value, random)
    elif chance < 0.6:
        del holder[key]
    elif chance < 0.65:
        other, place = random.choice(slots[1:])
        holder[key] = json.loads(json.dumps(other[place]))
    elif chance < 0.7:
        holder[key] = [value] if random.random() < 0.5 else {"value": value}
    elif isinstance(holder, list):
        holder.extend([value] * random.choice((1, 2, *SIZES) if len(str(value)) < 100 else (1,)))
    elif chance < 0.8:
        holder[Twin(key)] = random.choice((value, _odd(random), _marked(random)))
    elif chance < 0.9:
        names = (_field(key), key.upper(), key.lower(), key + " ", key + "\x00", key[:-1])
        holder[random.choice(names)] = holder.pop(key)
    else:
        holder[random.choice(OTHER_NAMES)] = _instead(None, random)
    return document


def _slots(document: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    holders = [document]
    for holder in holders:
        if isinstance(holder, dict):
            keys: Any = list(holder)
        elif isinstance(holder, list):
            keys = range(min(len(holder), 4))
        else:
            continue
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                holders.append(holder[key])
    return found


ENCODERS = (
    json.JSONEncoder(),
    json.JSONEncoder(separators=(",", ":")),
    json.JSONEncoder(separators=(",", ":"), ensure_ascii=False),
    json.JSONEncoder(separators=("\r\n,\t", " : "), ensure_ascii=False),
)
_A_TOKEN = re.compile(r'"(~\d+~)"')


def text_of(document: Any, random: Random) -> bytes:
    """Returns a document as bytes. They are not UTF-8 if it has a lone surrogate, not escaped."""
    text = random.choice(ENCODERS).encode(document)
    if "~" in text:
        text = _A_TOKEN.sub(lambda found: TOKENS.get(found[1], "0"), text)
    return text.encode("utf-8", "surrogatepass")


# --- Torn messages: bytes changed without regard to what they mean ---

PIECES = (
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xef\xbb\xbf"),
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"1", b"0", b"-", b"e", b".", b" ", b"\n"),
    *(b"\\u0000", b"\\ud800", b"null", b"true", b"NaN", b'"a":1,', b"/**/", b"\x1b[2J", b"\x00"),
)


def tear(raw: bytes, other: bytes, random: Random) -> bytes:
    """Changes some bytes of a message; `other` is one to splice it with."""
    torn = bytearray(raw)
    place = random.randrange(len(torn) + 1)
    chance = random.random()
    if chance < 0.3 and place < len(torn):
        torn[place] ^= 1 << random.randrange(8)
    elif chance < 0.4 and place < len(torn):
        torn[place] = random.randrange(256)
    elif chance < 0.5:
        del torn[place : place + random.randint(1, 8)]
    elif chance < 0.55:
        del torn[place:]
    elif chance < 0.8:
        torn[place:place] = random.choice(PIECES)
    elif chance < 0.85:
        end = place + random.randint(1, 40)
        torn[place:place] = torn[place:end]
    elif chance < 0.95:
        torn[place:] = other[random.randrange(len(other) + 1) :]
    elif chance < 0.97:
        torn[:0] = random.choice((b"\xef\xbb\xbf", b"\xff\xfe", b" \n", b"\x0b", b"null"))
    elif chance < 0.98:
        torn += random.choice((b"\x00", b" \r\n", b"}", b"x", b"\xff", raw))
    elif chance < 0.99:
        coding = random.choice(("utf-16", "utf-32", "latin-1"))
        return raw.decode("utf-8", "replace").encode(coding, "replace")
    else:
        return random.choice((b"", b" ", b"null", b"{}", b"[]", b'""', b"0", b"\xef\xbb\xbf"))
    return bytes(torn)


class Messages:
    """An endless series of messages of a kind; a seed always gives the same ones."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self._schema = schema_of(kind)
        self._random = Random(seed)
        self._whole = [self._new() for _ in range(200)]

    def next(self) -> tuple[str, bytes]:
        """Returns a message, and what it is: `whole`, `bent` or `torn`."""
        random = self._random
        chance = random.random()
        if chance < 0.15:
            raw = self._new()
            self._whole[random.randrange(len(self._whole))] = raw
            return "whole", raw
        raw = random.choice(self._whole)
        if chance < 0.6:
            document = json.loads(raw)
            for _ in range(random.choice((1, 1, 1, 2, 3))):
                document = bend(document, random)
            return "bent", text_of(document, random)
        for _ in range(random.choice((1, 1, 2, 4))):
            raw = tear(raw, random.choice(self._whole), random)
        return "torn", raw

    def _new(self) -> bytes:
        return text_of(valid(self._schema, self._random), self._random)


# --- Under atheris ---

MEMBERS = {name for one in SCHEMA["$defs"].values() for name in one.get("properties", ())}


def play_messages(kind: Kind, seed: int, count: int) -> None:
    """Plays messages of one kind; raises with a note from which the message can be made again."""
    messages = Messages(kind, seed)
    came = Counter[tuple[str, bool]]()
    for number in range(count):
        what, raw = messages.next()
        try:
            result = played(kind, raw)
            if is_refused := isinstance(result, ValidationError):
                assert what != "whole", message_faults(result)
                assert what != "bent" or SECRET not in message_faults(result)
        except BaseException as problem:
            problem.add_note(
                f"{kind.__name__}, seed {seed}, {what} message {number}, "
                f"{len(raw)} B: {raw[:2000]!r}"
            )
            raise
        came[what, is_refused] += 1

    shares = f"{kind.__name__}, seed {seed}: {came}"
    refused = sum(number for (_, is_refused), number in came.items() if is_refused)
    assert refused >= 0.3 * count, shares
    assert count - refused >= 0.1 * count, shares
    assert came["whole", False] >= 0.1 * count, shares
    for what in ("bent", "torn"):
        # What is changed is neither all lost nor all harmless.
        assert came[what, False] >= 0.01 * count, shares
        assert came[what, True] >= 0.1 * count, shares


class Places:
    """The results of messages; each kind is a place in the code, for atheris to count.

    It counts calls of functions that it instrumented, so that each kind gets a function.
    """

    def __init__(self, most: int = 4096) -> None:
        self._free = [atheris.instrument_func(lambda: None) for _ in range(most)]
        self._found: dict[object, Callable[[], None]] = {}

    def seen(self, kind: Kind, result: DriverReport | Assignment | ValidationError) -> None:
        """Counts the result of one message."""
        if isinstance(result, ValidationError):
            for error in result.errors(include_url=False, include_input=False):
                # Of what is no JSON the message says why; others only repeat bound and value.
                is_no_json = error["type"] == "json_invalid"
                why = error["msg"].partition(" at line ")[0] if is_no_json else error["type"]
                self._count((kind, _place(error["loc"]), why))
        else:
            self._members(kind, (), result.wire())

    def _members(self, kind: Kind, path: tuple[str | int, ...], value: Any) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                self._members(kind, (*path, key), one)
        elif isinstance(value, list):
            for one in value[:2]:
                self._members(kind, (*path, 0), one)
        else:
            size = len(value) if isinstance(value, str) else int(abs(value))
            self._count((kind, _place(path), size.bit_length() // 4))

    def _count(self, what: object) -> None:
        if what not in self._found and self._free:
            self._found[what] = self._free.pop()
        if what in self._found:
            self._found[what]()


def _place(path: tuple[str | int, ...]) -> tuple[str, ...]:
    return tuple(part if isinstance(part, str) and part in MEMBERS else "*" for part in path)


def mutated(raw: bytes, most: int, seed: int) -> bytes:
    """Returns a changed message: atheris changes its bytes, or this function its content."""
    random = Random(seed)
    if random.random() < 0.6:
        try:
            bent = text_of(bend(json.loads(raw), random), random)
            if len(bent) <= most:
                return bent
        except (ValueError, RecursionError):
            pass
    changed: bytes = atheris.Mutate(raw, len(raw))
    return changed


def main() -> None:
    """Plays by seed, then for so many seconds by coverage; its files go into a folder.

    Ends the process.
    """
    seconds, folder, seed = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    corpus = folder / "corpus"
    corpus.mkdir()
    for kind in KINDS:
        play_messages(kind, seed, MESSAGES)
        messages = Messages(kind, seed)
        for number in range(500):
            what, raw = messages.next()
            (corpus / f"{kind.__name__}-{number}-{what}").write_bytes(raw[:REPORT_BYTES_MAX])
    places = Places()

    def play(raw: bytes) -> None:
        for kind in KINDS:
            places.seen(kind, played(kind, raw))

    options = {
        "max_total_time": seconds,
        "max_len": REPORT_BYTES_MAX,
        "seed": seed,
        "timeout": 10,
        "rss_limit_mb": 2048,
        "print_final_stats": 1,
        "artifact_prefix": f"{folder}/",
    }
    arguments = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], play, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
