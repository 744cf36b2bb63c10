"""Reads a manifest in YAML, event by event: what it can hold is what JSON can.

A loader of the library would build whatever a tag asks for, follow anchors that multiply, and
recurse as deep as a stranger nests. Plain words that YAML 1.1 and 1.2 read differently are refused:
kubectl takes `yes` for true, others for a text.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

YAML_BYTES_MAX = 1 << 18
SIZE_MAX = 40_000
"""Of one document with all that anchors repeat, where a value counts one and 16 characters another
one: all that fits in as many bytes without anchors, but no text that is repeated without end."""

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_EXPONENT = "[eE][-+]?[0-9]{1,3}"
_FLOAT = re.compile(rf"-?(0|[1-9][0-9]{{0,17}})(\.[0-9]{{1,18}}({_EXPONENT})?|{_EXPONENT})")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_AMBIGUOUS = re.compile(
    r"(?i)yes|no|on|off|[-+]?\.(inf|nan)|[-+]?0[xob][0-9a-f_]+|"
    r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)(e[-+]?[0-9]+)?|"
    r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
)


class BadYaml(ValueError):
    """The text is not one document of YAML that everybody reads alike."""


def read_yaml(text: str, depth_max: int) -> Any:
    """Returns the value of a document: maps, lists, texts, numbers, booleans; raises BadYaml."""
    try:
        return _Reader(depth_max).read(yaml.parse(text, Loader=yaml.CSafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadYaml(f"the body is not YAML{where}") from None
    except yaml.YAMLError:
        raise BadYaml("the body is not YAML") from None


class _Reader:
    """Builds one value from events; nothing recurses."""

    def __init__(self, depth_max: int) -> None:
        self._depth_max = depth_max
        self._size = 0
        self._anchors: dict[str, tuple[Any, int]] = {}
        """Each with its size."""
        self._open: list[tuple[Any, list[Any], str | None, int]] = []
        """Maps and lists that are not closed: the key that waits for its value, the anchor, and the
        size before."""
        self._whole: list[Any] = []

    def read(self, events: Iterator[Any]) -> Any:
        documents = 0
        for event in events:
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise BadYaml("the body holds several documents; send one at a time")
                case yaml.ScalarEvent():
                    self._take(_scalar(event), event.anchor, 1 + len(event.value) // 16)
                case yaml.AliasEvent():
                    name = str(event.anchor)
                    if name not in self._anchors:
                        raise BadYaml(f"the anchor {name[:64]} is not whole where it is used")
                    self._take(self._anchors[name][0], None, self._anchors[name][1])
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    _without_tag(event)
                    made: Any = [] if isinstance(event, yaml.SequenceStartEvent) else {}
                    if len(self._open) >= self._depth_max:
                        raise BadYaml("the body is nested too deeply")
                    self._open.append((made, [], event.anchor, self._size))
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    made, _, anchor, before = self._open.pop()
                    self._take(made, anchor, 1, self._size - before)
        return self._whole[0] if self._whole else None

    def _take(self, value: Any, anchor: str | None, size: int, inside: int = 0) -> None:
        self._size += size
        if self._size > SIZE_MAX:
            raise BadYaml("the body holds too many values, or its anchors repeat too much")
        if anchor is not None:
            self._anchors[anchor] = value, size + inside
        if not self._open:
            self._whole.append(value)
            return
        holder, key, _, _ = self._open[-1]
        if isinstance(holder, list):
            holder.append(value)
        elif not key:
            if not isinstance(value, str):
                raise BadYaml(f"the key {value!r:.64} is not a text; write it in quotes")
            if value in holder:
                raise BadYaml(f"the key '{value[:64]}' appears twice in one object")
            key.append(value)
        else:
            holder[key.pop()] = value


def _without_tag(event: Any) -> None:
    if event.tag is not None:
        raise BadYaml(f"the tag {event.tag[:64]} is not taken; leave it out")


def _scalar(event: Any) -> Any:
    text: str = event.value
    if not event.implicit[0]:
        if event.implicit[1]:
            return text  # In quotes, or a block.
        _without_tag(event)
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise BadYaml(f"the number {text} is too large")
        return int(number) if number.is_integer() else number
    if _AMBIGUOUS.fullmatch(text):
        raise BadYaml(
            f"'{text[:64]}' means different things to different readers; put it in quotes"
        )
    return text
