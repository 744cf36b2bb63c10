"""Faults that a test or a demo asks for, by name; each is used up as it strikes.

| name | what happens |
|---|---|
| `rent_answer_lost` | the machine is rented, the connection is cut without an answer |
| `rent_not_accepted` | the request is read, nothing is rented, the connection is cut |
| `offer_gone` | the rent request is refused: somebody else was faster |
| `slow_boot` | the machine loads for `seconds` |
| `host_dies` | `seconds` after it began to run, the host is lost with everything on it |
| `outbid` | `seconds` after an interruptible machine began to run, its GPUs go to somebody else; |
|  | it gets them back by itself after `lasts` |
| `mislabelled` | the machine's GPUs call themselves by another name than its offer |
| `broken_gpu` | its GPUs do not answer |
| `slow_disk` | its disk is slow |
| `other_key` | it shows another SSH host key than its log |
| `destroy_ignored` | a destroy request is answered well and does nothing |
| `reappear` | `seconds` after its end, a destroyed machine is listed again, for `lasts` |
| `list_omit` | a complete listing does not have a machine |
| `list_duplicate` | a listing has the row of a machine twice; its total is right |
| `null_marks` | a listed machine has a null label and null environment |
| `wrong_key` | the account's key is refused |
| `server_error` | requests are answered with 500 |
| `unavailable` | requests are answered with 503 |
| `html` | requests are answered with a web page |
| `hang` | requests are not answered |

`count` says how often it strikes (-1: until it is taken back); `image` and `path` say which rents
and machines, and which requests, it may strike. `seconds` and `lasts` are simulated time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OPTIONS = frozenset({"count", "seconds", "lasts", "image", "path"})
NAMES = frozenset(
    {
        "rent_answer_lost",
        "rent_not_accepted",
        "offer_gone",
        "slow_boot",
        "host_dies",
        "outbid",
        "mislabelled",
        "broken_gpu",
        "slow_disk",
        "other_key",
        "destroy_ignored",
        "reappear",
        "list_omit",
        "list_duplicate",
        "null_marks",
        "wrong_key",
        "server_error",
        "unavailable",
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
    lasts: float
    """For how many seconds; -1 = for ever."""
    image: str
    """It strikes only rents and machines whose image contains this."""
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
                raise FaultError(f"{name}: an object with {', '.join(sorted(OPTIONS))} is needed")
            unknown = set(options) - OPTIONS
            if unknown:
                raise FaultError(f"{name}: unknown option {', '.join(sorted(unknown))}")
            asked[name] = Fault(
                count=int(options.get("count", 1)),
                seconds=float(options.get("seconds", 0)),
                lasts=float(options.get("lasts", -1)),
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
