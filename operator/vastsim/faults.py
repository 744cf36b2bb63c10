"""Faults that a test or a demo asks for by name; each strike uses one up.

Of rents, and of machines from their rent to their end; all take `image`:

| name | options | what happens |
|---|---|---|
| `rent_answer_lost` | | the machine is rented, but the connection is cut without an answer |
| `rent_not_accepted` | | the request is read, nothing is rented, the connection is cut |
| `offer_gone` | | the rent request is refused: somebody else was faster |
| `bid_too_low` | | a bid is refused as too low, and yet leaves a stopped machine |
| `credit_gone` | | the account has no credit any more from this rent on |
| `slow_boot` | `seconds` | the machine loads for so long |
| `stuck_loading` | | it loads for ever |
| `pull_fails` | `seconds`, `words` | its image is never pulled, its status says `words`, and it |
| | | is stopped after `seconds` (420), and still shows as loading |
| `left_standing` | | the machine stands still until it is told to run |
| `list_lag` | `seconds` | it is missing from listings for so long, and is listed for so long |
| | | after its end |
| `host_dies` | `seconds` | so long after it began to run, its host is lost with everything on it |
| `host_away` | `seconds`, `lasts` | so long after it began to run, its host is away for `lasts` |
| | | seconds, then it is there again with its disk |
| `outbid` | `seconds`, `lasts` | so long after an interruptible machine began to run, its GPUs go |
| | | to somebody else; it gets them back by itself after `lasts` seconds |
| `price_increase` | `seconds`, `factor` | so long after a machine on demand began to run, its |
| | | host asks for `factor` (2) times its price, which holds once the client accepts it |
| `mislabelled` | | the machine's GPUs report another model than the offer names |
| `broken_gpu` | | its GPUs do not answer |
| `slow_disk` | | its disk is slow |
| `direct_filtered` | | packets to its own SSH port are dropped; the proxy still works |
| `proxy_broken` | | the provider's proxy closes each connection to it; its own port works |
| `other_key` | | it shows another SSH host key than the one in its log |
| `log_late` | `seconds` | a log that was asked for can be fetched after so long (5 to 20) |
| `log_never` | | a log that was asked for can never be fetched |
| `destroy_ignored` | | a destroy request is answered with success and does nothing |
| `reappear` | `seconds`, `lasts` | so long after its end a destroyed machine is listed again, for |
| | | `lasts` seconds |

Of listings; all take `image`:

| name | options | what happens |
|---|---|---|
| `list_omit` | | a listing that claims to be complete lacks a machine |
| `list_duplicate` | | a listing has a machine's row twice; its total is right |
| `null_marks` | | label and environment of a listed machine are null |
| `null_in_row` | `field` | one field of a listed machine is null: `field`, or one by chance |
| `flicker` | `shows`, `listings` | so many listings (1) that have the row of a machine that runs |
| | | show it as `shows`, or as one by chance |

Of any request to the provider; all take `path`, but for `null_in_offer`:

| name | options | what happens |
|---|---|---|
| `null_in_offer` | `field` | one field of an offer is null: `field`, or one by chance |
| `wrong_key` | | the account's key is refused |
| `server_error` | | requests are answered with 500 |
| `unavailable` | | requests are answered with 503 |
| `too_many_requests` | | requests are answered with 429: others use the account as well |
| `html` | | requests are answered with a web page |
| `hang` | | requests are not answered |
| `date_skew` | `seconds`, `words` | the answer's `Date` is so much later, at most in the year |
| | | 9999, or it is `words` |

`probability` says how likely a fault strikes when it could (1), and `count` how often it does: 1 by
default, -1 until it is withdrawn, which is the default where there is a `probability`. A fault
strikes only rents and machines whose image contains `image`, and only requests whose path contains
`path`. `seconds` and `lasts` are simulated time; `lasts` is -1 for ever. In `words`, `IMAGE` stands
for the image's name. What is by chance comes from the simulator's seed, for each fault by itself.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

FLICKERS = ("offline", "unknown", "exited", "null", "created")
"""What a machine that runs was seen to show for a while (vastsim/FACTS.md, Instance states)."""
ROW_NULLS = (
    "actual_status",
    "cpu_cores",
    "cpu_util",
    "dph_base",
    "end_date",
    "extra_env",
    "geolocation",
    "gpu_temp",
    "gpu_util",
    "inet_down_billed",
    "inet_up_billed",
    "label",
    "mem_limit",
    "mem_usage",
    "onstart",
    "ports",
    "ssh_port",
    "start_date",
    "status_msg",
    "template_hash_id",
    "template_id",
    "uptime_mins",
    "vmem_usage",
)
"""Fields of a machine that were seen, or are documented, as null (vastsim/FACTS.md, Nulls)."""
OFFER_NULLS = (
    "bundled_results",
    "cluster_id",
    "cpu_cores",
    "discount_rate",
    "external",
    "geolocation",
    "geolocode",
    "hostname",
    "nw_disk_avg_bw",
    "nw_disk_max_bw",
    "nw_disk_min_bw",
    "platform_fee",
    "start_date",
    "webpage",
)
"""Fields of an offer that were seen as null (vastsim/FACTS.md, Nulls)."""

RENTS = {
    "rent_answer_lost": "",
    "rent_not_accepted": "",
    "offer_gone": "",
    "bid_too_low": "",
    "credit_gone": "",
    "slow_boot": "seconds",
    "stuck_loading": "",
    "pull_fails": "seconds words",
    "left_standing": "",
    "list_lag": "seconds",
    "host_dies": "seconds",
    "host_away": "seconds lasts",
    "outbid": "seconds lasts",
    "price_increase": "seconds factor",
    "mislabelled": "",
    "broken_gpu": "",
    "slow_disk": "",
    "direct_filtered": "",
    "proxy_broken": "",
    "other_key": "",
    "log_late": "seconds",
    "log_never": "",
    "destroy_ignored": "",
    "reappear": "seconds lasts",
    "list_omit": "",
    "list_duplicate": "",
    "null_marks": "",
    "null_in_row": "field",
    "flicker": "shows listings",
}
REQUESTS = {
    "wrong_key": "",
    "server_error": "",
    "unavailable": "",
    "too_many_requests": "",
    "html": "",
    "hang": "",
    "date_skew": "seconds words",
}
OPTIONS = {
    **{name: ("image", *more.split()) for name, more in RENTS.items()},
    **{name: ("path", *more.split()) for name, more in REQUESTS.items()},
    "null_in_offer": ("field",),
}
"""What each fault takes besides `count` and `probability`."""
LOWEST = {"count": -1, "probability": 0, "lasts": -1, "listings": 1, "factor": 1}
HIGHEST = {"probability": 1}
WHOLE = ("count", "listings")
DATES = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))


class FaultError(ValueError):
    """The fault does not exist, or one of its options is wrong."""


@dataclass
class Fault:
    """One fault that was asked for."""

    count: int
    """How often it will still strike; -1 = until it is withdrawn."""
    probability: float
    seconds: float
    lasts: float
    """Duration in seconds; -1 = for ever."""
    image: str
    """It strikes only rents and machines whose image contains this."""
    path: str
    """It strikes only requests whose path contains this."""
    words: str = ""
    """What the provider says of it."""
    shows: str = ""
    """One of FLICKERS; empty = by chance."""
    listings: int = 1
    factor: float = 2.0
    field: str = ""
    """One of ROW_NULLS or OFFER_NULLS; empty = by chance."""


class Faults:
    """The faults that are asked for now."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._asked: dict[str, Fault] = {}
        self._chances: dict[str, random.Random] = {}
        """Of each fault by itself, so that one asked for does not move the others."""
        self._flickers: dict[int, tuple[str, int]] = {}
        """What each machine is shown as, and in how many listings still."""

    def ask(self, wanted: Mapping[str, Any]) -> None:
        """Replaces the faults that are asked for; raises FaultError, and then replaces none."""
        self._asked = {name: _fault(name, options) for name, options in wanted.items()}
        self._flickers = {}

    def asked(self) -> dict[str, Fault]:
        """Returns the faults that may strike still."""
        return {name: replace(fault) for name, fault in self._asked.items() if fault.count}

    def strikes(self, name: str, *, image: str = "", path: str = "") -> Fault | None:
        """Returns the fault if it was asked for and fits, and counts the strike."""
        fault = self._asked.get(name)
        if fault is None or fault.count == 0:
            return None
        if fault.image not in image or fault.path not in path:
            return None
        if fault.probability < 1 and self._chance(name).random() >= fault.probability:
            return None
        fault.count -= fault.count > 0
        return fault

    def row(self, row: dict[str, Any], *, is_listing: bool = True) -> dict[str, Any]:
        """Returns the row of a machine as an answer shows it; only listings let a flicker pass."""
        image = row["image_uuid"]
        if row["actual_status"] == "running":
            row = self._flickering(row, image, is_listing=is_listing)
        if is_listing and (fault := self.strikes("null_in_row", image=image)):
            row = row | {fault.field or self._chance("null_in_row").choice(ROW_NULLS): None}
        return row

    def offer(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the row of an offer as an answer shows it."""
        fault = self.strikes("null_in_offer")
        if fault is None:
            return row
        return row | {fault.field or self._chance("null_in_offer").choice(OFFER_NULLS): None}

    def date(self, now: float, path: str) -> str:
        """Returns the `Date` of an answer to a request."""
        fault = self.strikes("date_skew", path=path)
        if fault is not None and fault.words:
            return fault.words
        shown = now + (fault.seconds if fault else 0.0)
        first, last = DATES
        if shown >= last.timestamp():
            return format_datetime(last, usegmt=True)
        if shown <= first.timestamp():
            return format_datetime(first, usegmt=True)
        return format_datetime(datetime.fromtimestamp(shown, UTC), usegmt=True)

    def log_delay(self, image: str) -> float | None:
        """Returns after how many seconds a log can be fetched, or None as without a fault."""
        if self.strikes("log_never", image=image):
            return math.inf
        fault = self.strikes("log_late", image=image)
        if fault is None:
            return None
        return fault.seconds or self._chance("log_late").uniform(5, 20)

    def _flickering(self, row: dict[str, Any], image: str, *, is_listing: bool) -> dict[str, Any]:
        shows, left = self._flickers.get(row["id"], ("", 0))
        if not left and is_listing and (fault := self.strikes("flicker", image=image)):
            shows, left = fault.shows or self._chance("flicker").choice(FLICKERS), fault.listings
        if not left:
            return row
        self._flickers[row["id"]] = (shows, left - is_listing)
        return row | {"actual_status": None if shows == "null" else shows}

    def _chance(self, name: str) -> random.Random:
        return self._chances.setdefault(name, random.Random(f"{self._seed}/{name}"))


def _fault(name: str, options: object) -> Fault:
    """Reads a fault's options; raises FaultError."""
    if name not in OPTIONS:
        raise FaultError(f"there is no fault {name!r}; known are {', '.join(sorted(OPTIONS))}")
    known = ("count", "probability", *OPTIONS[name])
    if not isinstance(options, Mapping):
        raise FaultError(f"{name}: must be an object with some of {', '.join(known)}")
    for option, value in options.items():
        if option not in known:
            raise FaultError(f"{name}: unknown option {option!r}; it takes {', '.join(known)}")
        _check(name, option, value)
    nulls = OFFER_NULLS if name == "null_in_offer" else ROW_NULLS
    _check_choice(name, "shows", options.get("shows", ""), FLICKERS)
    _check_choice(name, "field", options.get("field", ""), nulls)
    return Fault(
        count=options.get("count", -1 if "probability" in options else 1),
        probability=options.get("probability", 1),
        seconds=options.get("seconds", 0),
        lasts=options.get("lasts", -1),
        image=options.get("image", ""),
        path=options.get("path", ""),
        words=options.get("words", ""),
        shows=options.get("shows", ""),
        listings=options.get("listings", 1),
        factor=options.get("factor", 2),
        field=options.get("field", ""),
    )


def _check(name: str, option: str, value: object) -> None:
    if option in ("image", "path", "words", "shows", "field"):
        if not isinstance(value, str):
            raise FaultError(f"{name}: {option} must be text, not {value!r}")
        return
    # Only a date may be set back.
    lowest = LOWEST.get(option, -math.inf if name == "date_skew" else 0)
    highest = HIGHEST.get(option, math.inf)
    if isinstance(value, bool) or not isinstance(value, int if option in WHOLE else int | float):
        kind = "a whole number" if option in WHOLE else "a number"
        raise FaultError(f"{name}: {option} must be {kind}, not {value!r}")
    if not math.isfinite(value) or not lowest <= value <= highest:
        upto = f" to {highest}" if highest < math.inf else " or more"
        raise FaultError(f"{name}: {option} must be {lowest}{upto}, not {value!r}")


def _check_choice(name: str, option: str, value: str, known: tuple[str, ...]) -> None:
    if value and value not in known:
        raise FaultError(f"{name}: {option} must be one of {', '.join(known)}, not {value!r}")
