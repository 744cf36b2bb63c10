"""How often each endpoint may be called, and what who calls too often is told.

It is pure: the caller says what time it is. See vastsim/FACTS.md, Rate limits.
"""

import json
import math
import random
import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DAY_SECONDS = 86_400
DAILY_SEARCH_ROWS = 500_000
"""Nobody has published a figure; ten full answers a minute need 921,600 rows a day."""

HIGHEST = {"scale": 1e6, "daily_search_rows": 1e9, "retry_after_share": 1.0}

Identity = tuple[str, ...]


@dataclass(frozen=True)
class Endpoint:
    """What is counted together, and the least time between two calls of it."""

    methods: tuple[str, ...]
    path: re.Pattern[str]
    seconds: float
    """Least time between two calls, or the time in which there may be `calls`."""
    form: str = "detail"
    """How a refusal is written: as `plain` text, with a `detail`, or as an `error`."""
    calls: int = 1
    penalty_seconds: float = 0.0
    """A call that comes too early shuts the endpoint for this long."""
    is_search: bool = False
    """It is counted for each address, whoever asks, and has a quota of rows for each day."""

    @property
    def name(self) -> str:
        """What the counts of refusals are kept under."""
        return f"{self.methods[0]} {self.path.pattern}"


def _endpoint(what: str, seconds: float, **more: Any) -> Endpoint:
    methods, _, path = what.partition(" ")
    pattern = re.compile(path.replace("N", r"\d+"))
    return Endpoint(tuple(methods.split("|")), pattern, seconds, **more)


ENDPOINTS = (
    _endpoint(
        "POST|GET|PUT /api/v0/(bundles|search/asks)",
        60.0,
        calls=10,
        form="plain",
        is_search=True,
    ),
    _endpoint("PUT /api/v0/asks/N", 4.5, form="plain", penalty_seconds=12.0),
    _endpoint("POST /api/v0/asks/bulk", 4.5),
    _endpoint("PUT /api/v0/launch_instance", 5.0),
    _endpoint("GET /api/v[01]/instances", 1.0),
    _endpoint("GET /api/v0/instances/N", 2.0),
    _endpoint("PUT /api/v0/instances/N", 1.0),
    _endpoint("DELETE /api/v0/instances/N", 3.0, form="error"),
    _endpoint("PUT /api/v0/instances", 2.0),
    _endpoint("DELETE /api/v0/instances", 3.0, form="error"),
    _endpoint("PUT /api/v0/instances/reboot/N", 1.0),
    _endpoint("PUT /api/v0/instances/recycle/N", 1.0),
    _endpoint("PUT /api/v0/instances/bid_price/N", 5.5),
    _endpoint("PUT /api/v0/instances/command/N", 1.5),
    _endpoint("PUT /api/v0/instances/prepay/N", 2.0),
    _endpoint("GET /api/v0/instances/balance/N", 3.0),
    _endpoint("GET /api/v0/ssh", 1.0),
    _endpoint("POST /api/v0/ssh", 1.0),
    _endpoint("PUT|DELETE /api/v0/ssh/N", 1.0),
    _endpoint("POST /api/v0/instances/N/ssh", 1.0),
    _endpoint("GET /api/v0/instances/N/ssh", 1.0),
    _endpoint("DELETE /api/v0/instances/N/ssh/N", 2.0),
    _endpoint("GET /api/v0/charges", 1.0),
    _endpoint("GET /api/v1/invoices", 3.0),
)
"""Endpoints that are not here have no documented threshold, and none is applied."""
UNKNOWN = _endpoint("GET others", 1.0)
"""Any other one, where it is refused all the same."""


@dataclass(frozen=True)
class TooMany:
    """An answer with the status 429."""

    body: str
    headers: Mapping[str, str]


class ThresholdError(ValueError):
    """A setting that cannot be; the message says which."""


class Thresholds:
    """Who has called what when, and how many refusals there were."""

    def __init__(self, seed: int = 0, **settings: float) -> None:
        self.scale = 1.0
        """All times are multiplied by it; 0 = no thresholds."""
        self.daily_search_rows = DAILY_SEARCH_ROWS
        """For each address and UTC day; 0 = as many as anybody likes."""
        self.retry_after_share = 0.0
        """The share of refusals that say when to come again."""
        self.set(settings)
        self.refusals: Counter[str] = Counter()
        self._chance = random.Random(f"{seed}/retry-after")
        self._calls: dict[tuple[str, Identity], deque[float]] = {}
        self._shut_until: dict[tuple[str, Identity], float] = {}
        self._rows: Counter[tuple[str, int]] = Counter()

    def set(self, wanted: Mapping[str, Any]) -> None:
        """Changes settings while it runs; raises ThresholdError, and then changes none."""
        for name, value in wanted.items():
            if name not in HIGHEST:
                raise ThresholdError(f"there is no {name!r}; known are {', '.join(HIGHEST)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ThresholdError(f"{name} must be a number, not {value!r}")
            if not 0 <= value <= HIGHEST[name]:
                raise ThresholdError(f"{name} must be 0 to {HIGHEST[name]:g}, not {value!r}")
        for name, value in wanted.items():
            setattr(self, name, value)

    def settings(self) -> dict[str, float]:
        """Returns what `set` takes."""
        return {name: getattr(self, name) for name in HIGHEST}

    def judge(
        self, method: str, path: str, *, key: str, address: str, now: float
    ) -> TooMany | None:
        """Counts a call, or returns why it is refused.

        Whoever presents another key, or comes from another address, is somebody else. A call that
        was refused for its endpoint's interval does not count as one.
        """
        endpoint = _endpoint_of(method, path)
        if endpoint is None:
            return None
        who = (address,) if endpoint.is_search else (key, address)
        wait = self._wait(endpoint, who, now) if self.scale else 0.0
        if wait > 0:
            return self._too_frequent(endpoint, wait)
        if endpoint.is_search and 0 < self.daily_search_rows <= self._rows[address, _day(now)]:
            self.refusals["search quota"] += 1
            return _quota_exceeded(now)
        return None

    def refuse(self, method: str, path: str) -> TooMany:
        """Refuses a call whatever its time, as if others used the account as well."""
        endpoint = _endpoint_of(method, path) or UNKNOWN
        return self._too_frequent(endpoint, endpoint.seconds * self.scale)

    def answered(self, rows: int, *, address: str, now: float) -> None:
        """Counts the rows of a search's answer."""
        self._rows[address, _day(now)] += rows

    def _wait(self, endpoint: Endpoint, who: Identity, now: float) -> float:
        """Returns the seconds for which a call still comes too early; counts one that does not."""
        place = (endpoint.name, who)
        calls = self._calls.setdefault(place, deque(maxlen=endpoint.calls))
        wait = self._shut_until.get(place, -math.inf) - now
        if len(calls) == endpoint.calls:
            wait = max(wait, calls[0] + endpoint.seconds * self.scale - now)
        if wait <= 0:
            calls.append(now)
            return 0.0
        if endpoint.penalty_seconds:
            wait = endpoint.penalty_seconds * self.scale
            self._shut_until[place] = now + wait
        return wait

    def _too_frequent(self, endpoint: Endpoint, wait: float) -> TooMany:
        self.refusals[endpoint.name] += 1
        words = f"endpoint threshold={endpoint.seconds * self.scale:g}"
        headers = {"Content-Type": "application/json"}
        if self._chance.random() < self.retry_after_share:
            headers["Retry-After"] = str(math.ceil(wait))
        match endpoint.form:
            case "plain":
                headers["Content-Type"] = "text/plain; charset=utf-8"
                suffix = f": {words}" if endpoint.calls == 1 else ""
                return TooMany(f"API requests too frequent{suffix}", headers)
            case "error":
                body = {
                    "success": False,
                    "error": "rate_limit_exceeded",
                    "msg": f"API requests too frequent {words}",
                }
                return TooMany(json.dumps(body), headers)
        return TooMany(json.dumps({"detail": f"API requests too frequent {words}"}), headers)


def _endpoint_of(method: str, path: str) -> Endpoint | None:
    path = path.rstrip("/")
    fitting = (one for one in ENDPOINTS if method in one.methods and one.path.fullmatch(path))
    return next(fitting, None)


def _day(now: float) -> int:
    return int(now // DAY_SECONDS)


def _quota_exceeded(now: float) -> TooMany:
    resets_at = (_day(now) + 1) * DAY_SECONDS
    headers = {
        "Content-Type": "application/json",
        "X-RateLimit-Reset": str(resets_at),
        "Retry-After": str(math.ceil(resets_at - now)),
    }
    return TooMany(json.dumps({"error": "search_quota_exceeded"}), headers)
