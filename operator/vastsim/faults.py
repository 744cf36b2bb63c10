"""Faults that a test or a demo asks for, by name; each is used up as it strikes.

| name | what happens |
|---|---|
| `rent_answer_lost` | the machine is rented, the connection is cut without an answer |
| `rent_not_accepted` | the request is read, nothing is rented, the connection is cut |
| `offer_gone` | the rent request is refused: somebody else was faster |
| `slow_boot` | the machine loads for `seconds` |
| `host_dies` | `seconds` after it began to run, the host is lost with everything on it |
| `destroy_ignored` | a destroy request is answered well and does nothing |
| `wrong_key` | the account's key is refused |
| `server_error` | requests are answered with 500 |
| `html` | requests are answered with a web page |
| `hang` | requests are not answered |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAMES = frozenset(
    {
        "rent_answer_lost",
        "rent_not_accepted",
        "offer_gone",
        "slow_boot",
        "host_dies",
        "destroy_ignored",
        "wrong_key",
        "server_error",
        "html",
        "hang",
    }
)


class FaultError(ValueError):
    """A fault that does not exist, or is asked for wrongly."""


@dataclass
class Fault:
    """One asked-for fault."""

    count: int
    """How often it strikes still; -1 = until it is taken back."""
    seconds: float
    image: str
    """It strikes only rents whose image contains this."""
    path: str
    """It strikes only requests whose path contains this."""


class Faults:
    """What is asked for now."""

    def __init__(self) -> None:
        self._asked: dict[str, Fault] = {}

    def ask(self, wanted: Mapping[str, Any]) -> None:
        """Replaces what is asked for; raises FaultError."""
        asked = {}
        for name, options in wanted.items():
            if name not in NAMES:
                raise FaultError(f"no fault {name!r}; there are {', '.join(sorted(NAMES))}")
            if not isinstance(options, Mapping):
                raise FaultError(f"{name}: an object with count, seconds, image, path is needed")
            unknown = set(options) - {"count", "seconds", "image", "path"}
            if unknown:
                raise FaultError(f"{name}: unknown option {', '.join(sorted(unknown))}")
            asked[name] = Fault(
                count=int(options.get("count", 1)),
                seconds=float(options.get("seconds", 0)),
                image=str(options.get("image", "")),
                path=str(options.get("path", "")),
            )
        self._asked = asked

    def strikes(self, name: str, *, image: str = "", path: str = "") -> Fault | None:
        """Returns the fault if it is asked for and fits, and uses it up once."""
        fault = self._asked.get(name)
        if fault is None or fault.count == 0:
            return None
        if fault.image not in image or fault.path not in path:
            return None
        fault.count -= fault.count > 0
        return fault
