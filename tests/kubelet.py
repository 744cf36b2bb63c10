"""What a kubelet makes of the values of a container's variables.

By Kubernetes' documentation of `env[].value`, and by how it treats the cases that are not
documented (a dollar sign at the end, before a letter, or before a parenthesis that is not closed).
"""

from collections.abc import Mapping, Sequence
from typing import Any


def expanded(value: str, earlier: Mapping[str, str]) -> str:
    """Returns a value with its references to earlier variables replaced."""
    made, at = "", 0
    while at < len(value):
        after = value[at + 1 :]
        closed = after.find(")")
        if value[at] != "$" or not after:
            made, at = made + value[at], at + 1
        elif after[0] == "$":
            made, at = made + "$", at + 2
        elif after[0] == "(" and closed > 0:
            name = after[1:closed]
            made, at = made + earlier.get(name, f"$({name})"), at + closed + 2
        elif after[0] == "(":
            made, at = made + "$(", at + 2
        else:
            # It takes the first byte of what follows for a character: more than ASCII breaks.
            first = after[0].encode("utf-8", "surrogateescape")[0]
            rest = after[0].encode("utf-8", "surrogateescape")[1:].decode("latin-1")
            made, at = made + "$" + chr(first) + rest, at + 2
    return made


def variables(container: Mapping[str, Any]) -> dict[str, str]:
    """Returns the variables of a container that are given by value, as its process sees them."""
    entries: Sequence[Mapping[str, Any]] = container["env"]
    found: dict[str, str] = {}
    for entry in entries:
        if "valueFrom" not in entry:
            found[entry["name"]] = expanded(entry.get("value", ""), found)
    return found
