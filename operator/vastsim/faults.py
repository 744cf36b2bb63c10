"""Faults that a test or a demo asks for by name; each strike uses one up.

| name | what happens |
|---|---|
| `rent_answer_lost` | the machine is rented, but the connection is cut without an answer |
| `rent_not_accepted` | the request is read, nothing is rented, the connection is cut |
| `offer_gone` | the rent request is refused: somebody else was faster |
| `slow_boot` | the machine loads for `seconds` |
| `pull_fails` | its image is never pulled, its status says `words`, and after `seconds` (420) it |
|  | is stopped, and still shows as loading |
| `left_standing` | the machine stands still until it is told to run |
| `host_dies` | `seconds` after the machine began to run, its host is lost with everything on it |
| `outbid` | `seconds` after an interruptible machine began to run, its GPUs go to somebody else; |
|  | it gets them back by itself after `lasts` seconds |
| `mislabelled` | the machine's GPUs report another model than the offer names |
| `broken_gpu` | its GPUs do not answer |
| `slow_disk` | its disk is slow |
| `direct_filtered` | packets to its own SSH port are dropped; the proxy still works |
| `proxy_broken` | the provider's proxy closes each connection to it; its own port still works |
| `other_key` | it shows another SSH host key than the one in its log |
| `destroy_ignored` | a destroy request is answered with success and does nothing |
| `reappear` | `seconds` after its end a destroyed machine is listed again, for `lasts` seconds |
| `list_omit` | a listing that claims to be complete lacks a machine |
| `list_duplicate` | a listing has a machine's row twice; its total is right |
| `null_marks` | label and environment of a listed machine are null |
| `wrong_key` | the account's key is refused |
| `server_error` | requests are answered with 500 |
| `unavailable` | requests are answered with 503 |
| `html` | requests are answered with a web page |
| `hang` | requests are not answered |

`count` says how often a fault strikes (1 by default; -1: until it is withdrawn). It strikes only
rents and machines whose image contains `image`, and only requests whose path contains `path`.
`seconds` and `lasts` are simulated time. In `words`, `IMAGE` stands for the image's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OPTIONS = frozenset({"count", "seconds", "lasts", "image", "path", "words"})
NAMES = frozenset(
    {
        "rent_answer_lost",
        "rent_not_accepted",
        "offer_gone",
        "slow_boot",
        "pull_fails",
        "left_standing",
        "host_dies",
        "outbid",
        "mislabelled",
        "broken_gpu",
        "slow_disk",
        "direct_filtered",
        "proxy_broken",
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
    """The fault does not exist, or one of its options is wrong."""


@dataclass
class Fault:
    """One fault that was asked for."""

    count: int
    """How often it will still strike; -1 = until it is withdrawn."""
    seconds: float
    lasts: float
    """Duration in seconds; -1 = for ever."""
    image: str
    """It strikes only rents and machines whose image contains this."""
    path: str
    """It strikes only requests whose path contains this."""
    words: str = ""
    """What the provider says of it."""


class Faults:
    """The faults that are asked for now."""

    def __init__(self) -> None:
        self._asked: dict[str, Fault] = {}

    def ask(self, wanted: Mapping[str, Any]) -> None:
        """Replaces the faults that are asked for; raises FaultError."""
        asked = {}
        for name, options in wanted.items():
            if name not in NAMES:
                raise FaultError(
                    f"there is no fault {name!r}; known are {', '.join(sorted(NAMES))}"
                )
            if not isinstance(options, Mapping):
                raise FaultError(
                    f"{name}: must be an object with some of {', '.join(sorted(OPTIONS))}"
                )
            unknown = set(options) - OPTIONS
            if unknown:
                raise FaultError(f"{name}: unknown option {', '.join(sorted(unknown))}")
            asked[name] = Fault(
                count=int(options.get("count", 1)),
                seconds=float(options.get("seconds", 0)),
                lasts=float(options.get("lasts", -1)),
                image=str(options.get("image", "")),
                path=str(options.get("path", "")),
                words=str(options.get("words", "")),
            )
        self._asked = asked

    def strikes(self, name: str, *, image: str = "", path: str = "") -> Fault | None:
        """Returns the fault if it was asked for and fits, and counts the strike."""
        fault = self._asked.get(name)
        if fault is None or fault.count == 0:
            return None
        if fault.image not in image or fault.path not in path:
            return None
        fault.count -= fault.count > 0
        return fault
