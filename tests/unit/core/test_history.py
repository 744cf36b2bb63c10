"""What is noted of listings as they come says the same as the listings themselves.

The references look through all listings and all their rows, as plainly as it can be said; chance
makes listings with lost marks, machines that flicker, other accounts and counts that go down.
"""

from fractions import Fraction
from math import ceil
from random import Random

import pytest
from tests.builders import (
    ACCOUNT,
    CLUSTER,
    INSTANCE,
    JOB_UID,
    MARK,
    MONOTONIC,
    RECORDED,
    a_job,
    a_lease,
    a_listing,
    a_world,
    at,
    marker,
    node_observation,
    running,
    stamp,
    taken_in,
)

from gpujob.api.gpunode import PauseStatus, TrafficStatus
from gpujob.core.job.strays import strays_listed
from gpujob.core.market.absence import absence_proved_at
from gpujob.core.market.history import LISTINGS_KEPT
from gpujob.core.market.listings import Lease, Listing, is_anothers, leases_of, recorded
from gpujob.core.money import format_usd, micro_up, over_time, parse_usd
from gpujob.core.node.facts import is_anothers_number
from gpujob.core.node.pauses import pauses_shown, running_rate
from gpujob.core.node.traffic import traffic_shown
from gpujob.core.observation import NodeObservation

POLL = 15.0
MARKS = (str(MARK), f"{CLUSTER}/other/{JOB_UID}", f"other/n/{JOB_UID}", "the big one", None)
NUMBERS = (INSTANCE, INSTANCE + 1, INSTANCE + 2)


def row(chance: Random, number: int, *, unrest: float) -> Lease:
    """A machine as a listing may show it; mostly paused, with `unrest` otherwise."""
    mark = MARKS[0] if chance.random() > unrest else chance.choice(MARKS)
    paused = chance.random() > unrest / 2
    return a_lease(
        instance_id=number,
        label=mark,
        env_mark=mark if chance.random() < 0.5 else None,
        is_attributable=mark is not None or chance.random() < 0.5,
        status="exited" if chance.random() > unrest / 2 else "running",
        intended_status="stopped" if paused else "running",
        stopped_usd_per_hour=chance.choice([None, Fraction("0.01"), Fraction("0.01"), Fraction(9)]),
        download_gb=chance.choice([None, *(Fraction(one, 3) for one in range(8))]),
        upload_gb=Fraction(chance.randrange(5), 7),
    )


def listings_of(chance: Random, count: int) -> tuple[Listing, ...]:
    """Listings in the order in which they came, the last one a second ago."""
    ago, found = 1.0, []
    share, unrest = chance.choice([0.1, 0.3, 0.8]), chance.choice([0.1, 0.6])
    for _ in range(count):
        shown = [number for number in NUMBERS if chance.random() < share]
        rows = [row(chance, number, unrest=unrest) for number in shown]
        account = chance.choice([ACCOUNT] * 15 + [ACCOUNT + 1])
        found.append(a_listing(*rows, ago=ago, account_id=account))
        ago += chance.choice([2.0, 5.0, POLL, POLL, 40.0])
    return tuple(reversed(found))


SEEDS = {f"seed {seed}": listings_of(Random(seed), 1 + seed % 12) for seed in range(100)}
WORLDS = [pytest.param(listings, id=name) for name, listings in SEEDS.items()]


def absence(
    listings: tuple[Listing, ...], after: float, instance_id: int | None, account_id: int
) -> float | None:
    """The reference for `absence_proved_at`."""
    first = proved = None
    for listing in listings:
        seen = any(
            one.mark == str(MARK) or (one.instance_id == instance_id and not is_anothers(one, MARK))
            for one in listing.leases
        )
        doubtful = instance_id is None and any(not one.is_attributable for one in listing.leases)
        if seen or doubtful or listing.account_id != account_id:
            first = proved = None
        elif listing.requested_at >= after:
            first = listing.requested_at if first is None else first
            if proved is None and listing.requested_at - first >= POLL:
                proved = listing.answered_at
    return proved


@pytest.mark.parametrize("listings", WORLDS)
def test_absence_is_proved_as_by_looking_through_all(listings: tuple[Listing, ...]) -> None:
    """At each listing, for a known and an unknown number, whenever the proof begins."""
    for count in range(len(listings) + 1):
        shown = listings[:count]
        for after in (0.0, MONOTONIC - 60, *(one.requested_at for one in shown)):
            for number in (None, *NUMBERS):
                for account in (ACCOUNT, ACCOUNT + 1):
                    proved = absence_proved_at(
                        taken_in(*shown),
                        after=after,
                        poll_seconds=POLL,
                        mark=MARK,
                        instance_id=number,
                        account_id=account,
                    )
                    assert proved == absence(shown, after, number, account)


def test_some_of_these_worlds_prove_absence_and_some_do_not() -> None:
    """Else the comparison shows nothing."""
    found = [
        absence(listings, 0.0, number, ACCOUNT) is not None
        for listings in SEEDS.values()
        for number in (None, INSTANCE)
    ]
    assert 0.1 < sum(found) / len(found) < 0.9


def observed(listings: tuple[Listing, ...], **status: object) -> NodeObservation:
    """A node with a bid's machine."""
    rent = marker(-2000, bidUSDPerHour="0.400000")
    return node_observation(running(-2000) | {"rent": rent} | status, world=a_world(*listings))


def own(listing: Listing, number: int = INSTANCE) -> Lease | None:
    """The reference for `recorded`."""
    found = next((one for one in listing.leases if one.instance_id == number), None)
    return None if found is None or is_anothers(found, MARK) else found


@pytest.mark.parametrize("listings", WORLDS)
def test_rows_are_found_as_by_looking_through_all(listings: tuple[Listing, ...]) -> None:
    """By number, by mark, and by job."""
    latest, world = listings[-1], a_world(*listings)
    marked = [one for one in latest.leases if one.mark == str(MARK)]
    assert leases_of(latest, MARK) == tuple(sorted(marked, key=lambda one: one.instance_id))
    assert [recorded(latest, number, MARK) for number in NUMBERS] == [
        own(latest, number) for number in NUMBERS
    ]
    strays = [one for one in latest.leases if one.mark == f"{CLUSTER}/other/{JOB_UID}"]
    assert strays_listed(world, a_job(status=RECORDED), []) == tuple(
        sorted(strays, key=lambda one: one.instance_id)
    )
    assert is_anothers_number(observed(listings)) is any(
        one.instance_id == INSTANCE and is_anothers(one, MARK)
        for listing in listings
        for one in listing.leases
    )


def traffic(listings: tuple[Listing, ...]) -> TrafficStatus | None:
    """The reference for `traffic_shown` of a node of which nothing is stored."""
    counted = [
        (listing, one, one.download_gb, one.upload_gb)
        for listing in listings
        if (one := own(listing)) is not None
    ]
    readable = [
        (listing.requested_at, down, up)
        for listing, _, down, up in counted
        if down is not None and up is not None
    ]
    if not readable:
        return None
    return TrafficStatus(
        download_mb=max(ceil(down * 1000) for _, down, _ in readable),
        upload_mb=max(ceil(up * 1000) for _, _, up in readable),
        as_of=at(readable[-1][0] - MONOTONIC),
    )


@pytest.mark.parametrize("listings", WORLDS)
def test_traffic_is_read_as_by_looking_through_all(listings: tuple[Listing, ...]) -> None:
    """In one look, and in one look after each listing."""
    assert traffic_shown(observed(listings)) == traffic(listings)

    told = None
    for count in range(1, len(listings) + 1):
        status: dict[str, object] = {} if told is None else {"traffic": told.wire()}
        told = traffic_shown(observed(listings[:count], **status))
    assert told == traffic(listings)


def pauses(seen: NodeObservation, listings: tuple[Listing, ...]) -> PauseStatus | None:
    """The reference for `pauses_shown`."""
    told = seen.node.status.pauses
    for listing in listings:
        asked, answered = (
            at(listing.requested_at - MONOTONIC),
            at(listing.answered_at - MONOTONIC),
        )
        if told is not None and (asked - told.as_of).total_seconds() < 1:
            continue
        shown = own(listing)
        if shown is None or shown.intended_status != "stopped" or shown.status == "running":
            told = told and told.model_copy(update={"listed": 0, "as_of": answered})
            continue
        told = told or PauseStatus(as_of=answered)
        seconds = (asked - told.as_of).total_seconds()
        price = shown.stopped_usd_per_hour
        listed = told.listed
        if seconds > 2 * seen.world.limits.listing_seconds(len(listing.leases)):
            listed = 0
        elif listed >= 2 and price is not None and micro_up(price) < running_rate(seen.node.status):
            cost = parse_usd(told.cost_usd) + over_time(micro_up(price), int(seconds))
            more = {"seconds": told.seconds + int(seconds), "cost_usd": format_usd(cost)}
            told = told.model_copy(update=more)
        told = told.model_copy(update={"listed": min(listed + 1, 2), "as_of": answered})
    return told


@pytest.mark.parametrize("listings", WORLDS)
@pytest.mark.parametrize("ago", [None, 3000.0, 61.5, 16.0])
def test_pauses_are_read_as_by_looking_through_all(
    listings: tuple[Listing, ...], ago: float | None
) -> None:
    """Whatever is stored of them."""
    told = {"seconds": 7, "costUSD": "0.000100", "listed": 2}
    status = {} if ago is None else {"pauses": told | {"asOf": stamp(-ago)}}
    seen = observed(listings, **status)

    assert pauses_shown(seen) == pauses(seen, listings)


def test_what_is_older_than_the_listings_that_are_evidence_is_forgotten() -> None:
    """Nothing is kept of a machine that none of them shows, and no more rows than are looked at."""
    full = [a_listing(a_lease(), a_lease(instance_id=1, label="x", env_mark=None), ago=5000)]
    empty = [a_listing(ago=4000.0 - 20 * number) for number in range(LISTINGS_KEPT)]

    assert taken_in(*full, *empty[:-1]).marks.keys() == {str(MARK), "x"}
    assert not taken_in(*full, *empty).marks
    assert not taken_in(*full, *empty).sightings
    assert len(taken_in(*full, *empty).moments) == LISTINGS_KEPT
    assert len(taken_in(*full, *empty)) == 3


def test_a_machine_that_does_not_change_is_noted_once() -> None:
    """What a pass looks at does not grow with the listings."""
    shown = [a_listing(a_lease(download_gb=Fraction(n)), ago=999.0 - n) for n in range(200)]

    (run,) = taken_in(*shown).sightings[INSTANCE]
    assert run.download_gb == 199
    assert run.last == shown[-1].requested_at
