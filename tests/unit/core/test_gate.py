"""The cost gate: its arithmetic, and every way in which it says no."""

import re
from dataclasses import replace
from fractions import Fraction
from random import Random
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, a_spec, an_offer, at, quotes

from gpujob.api.gpujob import CONFIDENCE_MAX, GpuJobSpec
from gpujob.api.reasons import Reason
from gpujob.core.cost.choice import matching_offers
from gpujob.core.cost.confidence import DestroyRecord, rounded_down
from gpujob.core.cost.estimate import Needs, estimate
from gpujob.core.cost.experience import Experience, Outcome
from gpujob.core.cost.gate import judge
from gpujob.core.cost.leased import Leased
from gpujob.core.cost.question import CostGateError, Question
from gpujob.core.cost.template import template_of
from gpujob.core.limits import PAGE_LEASES, Limits
from gpujob.core.market.hosts import HostMemory
from gpujob.core.market.offers import Offer
from gpujob.core.market.outbids import OutbidMemory
from gpujob.core.market.pace import Kind
from gpujob.core.money import MICRO


def question(spec: dict[str, Any] | None = None, **changes: Any) -> Question:
    """Asks for `a_spec` on `an_offer`, alone in the market."""
    wanted = GpuJobSpec.model_validate(spec or a_spec())
    asked = Question(
        now=NOW,
        limits=Limits(),
        spec=wanted,
        spent_microusd=0,
        run_seconds_used=0,
        quotes=quotes(),
        leased=Leased(),
        destroys=(),
        avoided_machines=frozenset(),
        hosts=HostMemory(),
        outbids=OutbidMemory(),
        template=template_of("team-a", wanted),
        runs=Experience(),
    )
    return replace(asked, **changes)


def late(count: int, total: int) -> tuple[DestroyRecord, ...]:
    """Recent destroys, some of them late."""
    return tuple(DestroyRecord(str(index), NOW, index < count) for index in range(total))


def test_the_bound_is_the_sum_that_a_pencil_gives() -> None:
    """(GPU + disk) x (run + boot + drain + lag), and traffic with what flows until it is seen."""
    hourly = Fraction("0.4") + Fraction("0.18") * 20 / 720
    lag = 60 + 2 * 15 + 30 + 3 * 20
    seconds = 3600 + 1200 + 30 + lag
    blind_seconds = 15 + lag
    down = 10 + Fraction(800) * blind_seconds / 8 / 1000
    up = 1 + Fraction(400) * blind_seconds / 8 / 1000
    traffic = (down + up) * Fraction("0.002")

    expected = -(-(hourly * seconds / 3600 * MICRO) // 1) + -(-(traffic * MICRO) // 1)

    assert judge(question()).bound_microusd == expected


def test_a_ceiling_of_exactly_the_bound_admits() -> None:
    """One micro-dollar decides."""
    bound = judge(question()).bound_microusd
    fits = a_spec(cost={"ceiling": f"{bound / MICRO:.6f}"})
    short = a_spec(cost={"ceiling": f"{(bound - 1) / MICRO:.6f}"})

    assert judge(question(fits)).bound_microusd == bound
    with pytest.raises(CostGateError) as refused:
        judge(question(short))
    assert refused.value.reason is Reason.CEILING_EXCEEDED


@pytest.mark.parametrize(
    ("reason", "asked"),
    [
        pytest.param(
            Reason.CEILING_EXCEEDED, question(a_spec(cost={"ceiling": "0.05"})), id="too dear"
        ),
        pytest.param(
            Reason.CEILING_EXCEEDED, question(spent_microusd=4_900_000), id="too much spent before"
        ),
        pytest.param(
            Reason.CEILING_EXCEEDED, question(reserved_microusd=1000), id="too little reserved"
        ),
        pytest.param(
            Reason.INSUFFICIENT_HISTORY,
            question({k: v for k, v in a_spec().items() if k != "activeDeadlineSeconds"}),
            id="no deadline",
        ),
        pytest.param(
            Reason.DEADLINE_USED_UP, question(run_seconds_used=3600), id="no second left to run"
        ),
        pytest.param(
            Reason.STALE_QUOTE, question(quotes=quotes(fetched_at=at(-61))), id="old prices"
        ),
        pytest.param(
            Reason.CLOCK_SKEW, question(quotes=quotes(fetched_at=at(3))), id="prices of the future"
        ),
        pytest.param(
            Reason.CLOCK_SKEW, question(quotes=quotes(clock_skew_seconds=6.0)), id="clocks differ"
        ),
        pytest.param(
            Reason.CLOCK_SKEW, question(quotes=quotes(clock_skew_seconds=-6.0)), id="either way"
        ),
        pytest.param(
            Reason.NO_MATCHING_OFFER,
            question(quotes=quotes(an_offer(gpu_model="H200"))),
            id="another GPU",
        ),
        pytest.param(
            Reason.MACHINES_DISTRUSTED,
            question(avoided_machines=frozenset({100})),
            id="only a machine that failed before",
        ),
        pytest.param(
            Reason.NO_MATCHING_OFFER,
            question(quotes=replace(quotes(), offers=())),
            id="an empty market",
        ),
        pytest.param(
            Reason.INVALID_QUOTE,
            question(quotes=replace(quotes(), offers=(), unreadable=3)),
            id="only malformed offers",
        ),
        pytest.param(
            Reason.CONTRACT_TOO_SHORT,
            question(quotes=quotes(an_offer(contract_seconds=Fraction(4000)))),
            id="the host leaves before",
        ),
        pytest.param(
            Reason.IMPLAUSIBLE_QUOTE,
            question(
                a_spec(gpu={"models": ["RTX 4090"], "count": 2}),
                quotes=quotes(
                    an_offer(),
                    an_offer(),
                    an_offer(gpu_count=2, gpu_usd_per_hour=Fraction("0.008")),
                ),
            ),
            id="a hundredth of the usual price",
        ),
        pytest.param(
            Reason.DESTROY_LAG_TOO_LONG,
            question(limits=Limits(max_leases=161)),
            id="too many to destroy in time",
        ),
        pytest.param(
            Reason.LEASE_LIMIT, question(leased=Leased(machines=20)), id="too many machines"
        ),
        pytest.param(
            Reason.LEASE_LIMIT,
            question(leased=Leased(machines=10, reckoned=10)),
            id="too many for the deadlines that are stored",
        ),
        pytest.param(
            Reason.LEASE_LIMIT,
            question(leased=Leased(machines=1, usd_per_hour=Fraction("49.9"))),
            id="too dear together",
        ),
        pytest.param(
            Reason.LEASE_LIMIT,
            question(leased=Leased(machines=1, unpriced="machine 7")),
            id="a leased machine of unknown price",
        ),
        pytest.param(Reason.CONFIDENCE_TOO_LOW, question(destroys=late(2, 10)), id="two were late"),
        pytest.param(
            Reason.CONFIDENCE_TOO_LOW,
            question(a_spec(cost={"ceiling": "5.00", "confidence": "0.96"}), destroys=late(1, 10)),
            id="one was late, for whom wants to be sure",
        ),
        pytest.param(
            Reason.CONFIDENCE_TOO_LOW, question(destroys=None), id="its own record is not known"
        ),
    ],
)
def test_it_fails_closed(reason: Reason, asked: Question) -> None:
    """Whatever is missing, stale, implausible or too dear is a no with its reason."""
    with pytest.raises(CostGateError) as refused:
        judge(asked)

    assert refused.value.reason is reason
    assert refused.value.message


def test_a_refusal_says_what_would_fit() -> None:
    """The ceiling and the deadline that it names are admitted."""
    with pytest.raises(CostGateError) as refused:
        judge(question(a_spec(cost={"ceiling": "0.40"})))
    words = refused.value.message
    ceiling = words.partition("a ceiling of $")[2].partition(" ")[0]
    deadline = int(words.rpartition("activeDeadlineSeconds of ")[2])

    judge(question(a_spec(cost={"ceiling": ceiling})))
    judge(question(a_spec(cost={"ceiling": "0.40"}, activeDeadlineSeconds=deadline)))
    with pytest.raises(CostGateError):
        judge(question(a_spec(cost={"ceiling": "0.40"}, activeDeadlineSeconds=deadline + 1)))


@given(
    others=st.integers(0, 1000),
    more=st.integers(0, 25),
    ours=st.integers(0, 19),
    dph=st.fractions(Fraction(1, 10), 2),
)
def test_what_would_fit_still_does_while_machines_come_and_go(
    others: int, more: int, ours: int, dph: Fraction
) -> None:
    """Of our own as many as the cap, and a page of other people's."""
    quoted = quotes(an_offer(gpu_usd_per_hour=dph))
    alone, crowd = Leased(others=others), Leased(others=others + more, machines=ours)
    limits = Limits(max_destroy_lag_seconds=10**6)
    with pytest.raises(CostGateError) as refused:
        judge(
            question(a_spec(cost={"ceiling": "0.01"}), quotes=quoted, leased=alone, limits=limits)
        )
    ceiling = refused.value.message.partition("a ceiling of $")[2].partition(" ")[0]

    assert judge(
        question(a_spec(cost={"ceiling": ceiling}), quotes=quoted, leased=crowd, limits=limits)
    )


def test_a_raised_cap_waits_for_the_deadlines_that_reckon_with_the_old_one() -> None:
    """The refusal says why it is not the cap that was set."""
    asked = question(limits=Limits(max_leases=30), leased=Leased(machines=20, reckoned=20))
    with pytest.raises(CostGateError, match="cap is 20, not 30, as long as"):
        judge(asked)

    assert judge(replace(asked, leased=Leased(machines=20, reckoned=30)))
    assert judge(replace(asked, leased=Leased(machines=19, reckoned=20)))


def test_a_refusal_says_that_no_shorter_run_would_fit() -> None:
    """Boot and destroy alone cost more than the ceiling."""
    with pytest.raises(CostGateError) as refused:
        judge(question(a_spec(cost={"ceiling": "0.0001"}, activeDeadlineSeconds=60)))

    assert refused.value.message.endswith("but a shorter activeDeadlineSeconds would not")


def test_a_refusal_for_traffic_alone_names_its_caps() -> None:
    """With less of it, the same job is admitted; no shorter run would be."""
    wanted = {"cost": {"ceiling": "1.00"}, "activeDeadlineSeconds": 60}
    data = {"maxDownloadGB": 20, "maxUploadGB": 5000}
    with pytest.raises(CostGateError) as refused:
        judge(question(a_spec(**wanted, data=data)))

    caps = "or less of data.maxDownloadGB, now 20, or maxUploadGB, now 5000"
    assert refused.value.message.endswith(caps)
    judge(question(a_spec(**wanted, data=data | {"maxUploadGB": 2})))


def test_the_cheapest_whole_wins_not_the_cheapest_hour() -> None:
    """Traffic and disk are part of the price."""
    cheap_hour = an_offer(
        offer_id=2, gpu_usd_per_hour=Fraction("0.3"), download_usd_per_gb=Fraction("0.1")
    )

    assert judge(question(quotes=quotes(an_offer(), cheap_hour))).offer.offer_id == 1


CHEAP_HOUR = an_offer(
    offer_id=2,
    machine_id=200,
    gpu_usd_per_hour=Fraction("0.3"),
    download_usd_per_gb=Fraction("0.1"),
)
"""Dearer than `an_offer` by its traffic, and cheaper by the hour: 0.305 $/h with its disk."""


@pytest.mark.parametrize(("leased", "chosen"), [("49.595", 1), ("49.596", 2), ("49.695", 2)])
def test_what_is_left_of_the_cap_by_the_hour_is_for_the_cheapest_that_fits_in(
    leased: str, chosen: int
) -> None:
    """No job waits for the best offer while another one passes the gate and the cap."""
    asked = question(
        quotes=quotes(an_offer(), CHEAP_HOUR),
        leased=Leased(machines=1, usd_per_hour=Fraction(leased)),
    )

    assert judge(asked).offer.offer_id == chosen
    assert ("limits.maxUsdPerHour" in judge(asked).words) == (chosen == 2)


def test_a_cap_by_the_hour_in_which_no_offer_fits_is_told_with_what_is_left() -> None:
    """Offers on machines that are not trusted do not count: they would not be taken either."""
    leased = Leased(machines=1, usd_per_hour=Fraction("49.696"))
    avoided = an_offer(offer_id=3, machine_id=300, gpu_usd_per_hour=Fraction("0.2"))
    with pytest.raises(CostGateError) as refused:
        judge(
            question(
                quotes=quotes(an_offer(), CHEAP_HOUR, avoided),
                leased=leased,
                avoided_machines=frozenset({300}),
            )
        )

    assert refused.value.reason is Reason.LEASE_LIMIT
    words = refused.value.message
    assert "0.3040 $/h are left of the operator's limits.maxUsdPerHour (50 $/h)" in words
    assert "the lowest price of 2 offers that fit the ceiling is 0.3050 $/h" in words


def test_run_seconds_of_earlier_attempts_shorten_this_one() -> None:
    """The deadline is for all attempts together."""
    whole = judge(question()).estimate.total_microusd
    rest = judge(question(run_seconds_used=3000)).estimate.total_microusd

    assert rest < whole


def test_a_used_up_deadline_says_what_would_do() -> None:
    """Boot and destroy would be paid for a workload that may not run; it can be raised."""
    with pytest.raises(CostGateError) as refused:
        judge(question(run_seconds_used=3700))

    assert "activeDeadlineSeconds (3600 s)" in refused.value.message
    assert "ran for 3700 s" in refused.value.message
    assert judge(question(a_spec(activeDeadlineSeconds=3701), run_seconds_used=3700))


def test_the_most_that_a_job_may_ask_for_is_met_without_evidence() -> None:
    """Else it would be accepted and wait for ever; one late destroy does not shut the others."""
    sure = a_spec(cost={"ceiling": "5.00", "confidence": CONFIDENCE_MAX})

    assert judge(question(sure))
    assert judge(question(destroys=late(1, 1)))


def test_a_gate_that_two_late_destroys_have_shut_opens_a_day_later() -> None:
    """It says what the figure is and what it rests on."""
    with pytest.raises(CostGateError) as refused:
        judge(question(destroys=late(2, 2)))

    assert "its confidence of 0.938 is below" in refused.value.message
    assert "0.0 machines were destroyed in time and 2.0 too late" in refused.value.message
    faded = tuple(replace(one, at=at(-86_400)) for one in late(2, 2))
    assert judge(question(destroys=faded))


@pytest.mark.parametrize(
    ("spent", "reserved", "fuse"),
    [(0, None, 5_000_000), (1_000_000, None, 4_000_000), (1_000_000, 3_000_000, 3_000_000)],
)
def test_the_fuse_is_what_is_left(spent: int, reserved: int | None, fuse: int) -> None:
    """Of the ceiling, and of what was reserved for this attempt."""
    asked = question(spent_microusd=spent, reserved_microusd=reserved)

    assert judge(asked).fuse_microusd == fuse


def test_the_money_deadline_leaves_room_for_the_end() -> None:
    """Destroyed at the deadline as the last of as many machines as there may ever be, it has cost
    no more than the fuse, though it was the only one when it was rented.
    """
    admission = judge(question(a_spec(cost={"ceiling": "1.00"})))
    seconds = admission.money_deadline_seconds + 60 + 2 * 15 + 30 + 3 * Limits().max_leases
    cost = admission.estimate.usd_per_hour * Fraction(seconds) / 3600 * MICRO

    assert cost + admission.estimate.traffic_microusd <= admission.fuse_microusd
    assert admission.money_deadline_seconds >= 3600 + Limits().boot_cap_seconds


@given(
    dph=st.fractions(Fraction(1, 100), 10),
    run=st.floats(0, 10**6),
    down=st.integers(0, 1000),
    others=st.integers(0, 1000),
    elapsed=st.floats(0, 1),
)
def test_no_life_within_the_caps_costs_more_than_the_bound(
    dph: Fraction, run: float, down: int, others: int, elapsed: float
) -> None:
    """Any share of the time and of the traffic that we allow lies below the bound."""
    limits = Limits()
    offer = an_offer(gpu_usd_per_hour=dph)
    needs = Needs(
        disk_gb=20, max_download_gb=down, max_upload_gb=1, run_seconds=run, drain_seconds=30
    )
    bound = estimate(offer, needs, limits, others=others)
    longest = run + limits.boot_cap_seconds + limits.destroy_lag_seconds(others)
    hourly = dph + offer.disk_usd_per_hour(20)
    cost = hourly * Fraction(elapsed * longest) / 3600 + down * offer.download_usd_per_gb

    assert cost * MICRO <= bound.total_microusd


CLAIM = {"claimName": "results", "path": "out"}


@pytest.mark.parametrize(
    ("data", "upload_mbps", "seconds"),
    [
        ({"outputs": [CLAIM], "maxUploadGB": 2}, 400, 30 + 40),
        ({"outputs": [CLAIM], "maxUploadGB": 2}, 4, 30 + 4000),
        ({"checkpoint": {**CLAIM, "intervalSeconds": 600}, "maxUploadGB": 1}, 400, 30 + 20),
        ({"outputs": [CLAIM], "maxUploadGB": 2, "drainSeconds": 600}, 4, 600),
        ({"maxUploadGB": 2}, 4, 30),
        ({"outputs": [CLAIM], "maxUploadGB": 0}, 4, 30),
        ({"outputs": [CLAIM], "maxUploadGB": 2}, 0, 30 + 16_000),
    ],
)
def test_the_time_to_copy_files_follows_the_line(
    data: dict[str, Any], upload_mbps: int, seconds: int
) -> None:
    """Unless the job says how long; it is paid for, so the bound has it."""
    quoted = quotes(an_offer(upload_mbps=Fraction(upload_mbps)))
    found = judge(question(a_spec(data=data), quotes=quoted))
    spec = a_spec(data={"maxUploadGB": data["maxUploadGB"]})
    plain = judge(question(spec, quotes=quoted))

    assert found.estimate.stop_seconds == seconds
    assert found.estimate.lease_seconds - plain.estimate.lease_seconds == seconds - 30


# --- Lines ----------------------------------------------------------------------------------------

SLOW = an_offer(
    offer_id=1, machine_id=100, gpu_usd_per_hour=Fraction("0.38"), download_mbps=Fraction(10)
)
FAST = an_offer(offer_id=2, machine_id=200, host_id=20, gpu_usd_per_hour=Fraction("0.40"))


def needing(gb: int, **data: Any) -> dict[str, Any]:
    """A job that may download so much."""
    return a_spec(data={"maxDownloadGB": gb, "maxUploadGB": 1} | data)


COPIES = {"inputs": [{"claimName": "c", "subPath": "in", "path": "/in"}]}
SAVES = {"checkpoint": {"claimName": "c", "path": "/ckpt"}}


def test_a_line_that_cannot_boot_the_job_in_time_is_passed_over() -> None:
    """Two cents less an hour are no bargain for sixteen thousand seconds of boot; it is told."""
    admission = judge(question(needing(20), quotes=quotes(SLOW, FAST, replace(SLOW, offer_id=3))))

    assert admission.offer == FAST
    assert "its line is too slow to load its image and files in time (2)" in admission.words
    assert "passed over" not in judge(question(needing(20), quotes=quotes(FAST))).words


@pytest.mark.parametrize(
    ("mbps", "gb", "data", "taken"),
    [
        ("133.34", 20, {}, True),
        ("133.33", 20, {}, False),
        ("0", 20, {}, False),
        ("0", 0, {}, True),
        ("0.001", 0, {}, True),
        ("7", 1, {}, True),
        ("6", 1, {}, False),
        ("667", 100_000, {}, True),
        ("666", 100_000, {}, False),
        ("667", 200, COPIES, False),
        ("1334", 200, COPIES, True),
        ("667", 200, SAVES, False),
        ("1334", 200, SAVES, True),
    ],
)
def test_what_must_be_there_in_time(mbps: str, gb: int, data: dict[str, Any], taken: bool) -> None:
    """The image, and the files that are copied before the start; an unknown line is no good one."""
    asked = question(
        needing(gb, **data) | {"cost": {"ceiling": "1000"}},
        quotes=quotes(an_offer(download_mbps=Fraction(mbps))),
    )
    if taken:
        assert judge(asked).offer.download_mbps == Fraction(mbps)
        return
    with pytest.raises(CostGateError) as refused:
        judge(asked)
    assert refused.value.reason is Reason.NO_MATCHING_OFFER
    assert "lower data.maxDownloadGB" in refused.value.message


def test_a_name_that_leaves_open_what_is_paid_for_rents_nothing_and_says_so() -> None:
    """The webhook may have been absent."""
    there = quotes(an_offer(gpu_model="A100 PCIE"))
    with pytest.raises(CostGateError) as refused:
        judge(question(a_spec(gpu={"models": ["A100"]}), quotes=there))
    assert refused.value.reason is Reason.NO_MATCHING_OFFER
    assert "'A100' leaves its memory open; write 'A100 40GB' or" in refused.value.message


def test_what_it_says_would_be_fast_enough_is() -> None:
    """Whoever follows its advice gets a machine."""
    with pytest.raises(CostGateError) as refused:
        judge(question(needing(20), quotes=quotes(SLOW)))
    mbps = int(refused.value.message.rpartition(" takes ")[2].partition(" ")[0])

    assert judge(
        question(needing(20), quotes=quotes(replace(SLOW, download_mbps=Fraction(mbps + 1))))
    )


def test_the_time_to_load_is_part_of_what_an_offer_is_likely_to_cost() -> None:
    """Both could boot in time; the one that is dearer by the hour costs less."""
    near = replace(SLOW, download_mbps=Fraction(140))
    admission = judge(question(needing(20), quotes=quotes(near, FAST)))

    assert admission.offer == FAST
    assert "machine 100 has a line of 140 Mbit/s and may take 1143 s" in admission.words
    days = needing(20) | {"activeDeadlineSeconds": 500_000, "cost": {"ceiling": "1000"}}
    assert judge(question(days, quotes=quotes(near, FAST))).offer == near


@given(
    mbps=st.fractions(0, 20_000),
    gb=st.integers(0, 1000),
    run=st.floats(0, 10**6),
    copies=st.booleans(),
)
def test_no_line_makes_the_bound_lower(mbps: Fraction, gb: int, run: float, copies: bool) -> None:
    """What is likely ranks offers, and the gate asks the bound: with the longest boot."""
    limits = Limits()
    needs = Needs(
        disk_gb=20,
        max_download_gb=gb,
        max_upload_gb=1,
        run_seconds=run,
        drain_seconds=30,
        copies_files=copies,
    )
    offer = an_offer(download_mbps=mbps)
    found = estimate(offer, needs, limits, others=3)
    seconds = run + limits.boot_cap_seconds + 30 + limits.destroy_lag_seconds(3)
    hourly = offer.gpu_usd_per_hour + offer.disk_usd_per_hour(20)
    run_alone = Fraction(run) * hourly / 3600 * MICRO

    assert found.time_microusd >= hourly * Fraction(seconds) / 3600 * MICRO - 1000
    assert run_alone - 1000 <= found.likely_microusd <= found.total_microusd


def rate(offer: Offer) -> Fraction:
    """What one GPU of an offer costs an hour."""
    return offer.gpu_usd_per_hour / offer.gpu_count


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("market", ["OnDemand", "Interruptible"])
def test_a_price_is_plausible_beside_the_middle_one_of_its_model(market: str, seed: int) -> None:
    """As the market shows it, on demand: what would be bid is compared with nothing."""
    chance = Random(seed)
    models = ("RTX 4090", "H100 SXM", "GTX 1080")
    offers = [
        an_offer(
            offer_id=number,
            machine_id=number,
            gpu_model=(model := chance.choice(models)),
            gpu_count=(count := chance.choice([1, 1, 2])),
            gpu_usd_per_hour=count
            * (models.index(model) + 1)
            * chance.choice([Fraction("0.01"), Fraction("0.21"), Fraction("0.3"), Fraction("1.1")])
            / chance.randint(1, 3),
            lowest_bid_usd_per_hour=Fraction("0.001") if number % 2 else None,
        )
        for number in range(chance.randint(1, 40))
    ]
    spec = a_spec(gpu={"models": list(models)}, market={"type": market}, cost={"ceiling": "90"})
    asked = question(spec, quotes=quotes(*offers))
    limits, fitting = asked.limits, set()
    for offer in offers:
        middle = median(rate(other) for other in offers if other.gpu_model == offer.gpu_model)
        if limits.plausible_low * middle <= rate(offer) <= limits.plausible_high * middle:
            fitting |= {offer.offer_id} if offer.gpu_count == 1 else set()

    try:
        found = {one.offer.offer_id for one in matching_offers(asked, 3600)}
    except CostGateError:
        found = set()
    assert found == fitting


# --- Without a deadline -----------------------------------------------------------------------


def endless(**changes: Any) -> dict[str, Any]:
    """The spec of a job without a deadline."""
    return {k: v for k, v in a_spec(**changes).items() if k != "activeDeadlineSeconds"}


def learnt(
    spec: dict[str, Any], *seconds: float, namespace: str = "team-a", outcome: Outcome | None = None
) -> Experience:
    """What is known once such jobs have taken so long, one after another until now."""
    found, kind = Experience(), template_of(namespace, GpuJobSpec.model_validate(spec))
    now = NOW.timestamp() - sum(seconds)
    for number, ran in enumerate(seconds):
        found.began(str(number), kind, now)
        now += ran
        found.ended(str(number), ran, outcome or Outcome.ENDED, now)
    return found


RUNS = tuple(600.0 + number for number in range(25))


def refusal_of(asked: Question) -> CostGateError:
    """Returns the gate's no."""
    with pytest.raises(CostGateError) as refused:
        judge(asked)
    return refused.value


def test_a_job_without_a_deadline_costs_what_such_jobs_took() -> None:
    """The bound is that of a job whose deadline is the learnt run time."""
    spec = endless()
    verdict = judge(question(spec, runs=learnt(spec, *RUNS)))
    declared = judge(question(a_spec(activeDeadlineSeconds=round(verdict.run.seconds))))

    # Of 25 values the largest is the first that holds with 95 %: ceil(26 x 0.95) = 25.
    assert verdict.run.seconds == pytest.approx(max(RUNS), rel=1e-5)
    assert abs(verdict.bound_microusd - declared.bound_microusd) < 100
    assert verdict.fuse_microusd == 5 * MICRO, "the fuse is the ceiling, whatever was learnt"
    assert verdict.confidence >= Fraction("0.95")
    assert "25 runs of its template" in verdict.words
    assert f"confidence of {rounded_down(verdict.confidence)}" in verdict.words
    assert len(verdict.basis) <= 512


def test_the_confidence_falls_to_what_the_ceiling_leaves() -> None:
    """With room for the two longest runs the confidence is higher than with room for one."""
    runs = (*[600.0] * 57, 3000.0, 6000.0)
    spec = endless()
    known = learnt(spec, *runs)
    wide = judge(question(spec, runs=known))
    bound = judge(question(a_spec(activeDeadlineSeconds=3100))).bound_microusd
    narrow = judge(question(endless(cost={"ceiling": f"{bound / MICRO:.6f}"}), runs=known))

    assert Fraction("0.95") <= narrow.confidence < wide.confidence < 1
    # Of 59 values 58 are within: 58 / 60 is less than is asked for only below 0.9667.
    assert narrow.confidence == pytest.approx(Fraction(58, 60), abs=1 / 2048)


@pytest.mark.parametrize(("known", "admits"), [(18, False), (19, True)])
def test_nineteen_runs_are_needed(known: int, admits: bool) -> None:
    """Fewer never bound the next one with 95 %."""
    spec = endless()
    asked = question(spec, runs=learnt(spec, *RUNS[:known]))
    if admits:
        assert judge(asked).run.learnt is not None
        return
    refused = refusal_of(asked)
    assert refused.reason is Reason.INSUFFICIENT_HISTORY
    assert "18 runs are known, of the 19 needed" in refused.message


@pytest.mark.parametrize(("known", "admits"), [(32, False), (33, True)])
def test_a_higher_confidence_needs_more_runs(known: int, admits: bool) -> None:
    """0.97 needs 33, since 32 of 33 are but 96.97 %."""
    spec = endless(cost={"ceiling": "5", "confidence": "0.97"})
    asked = question(spec, runs=learnt(spec, *[600.0 + one for one in range(known)]))
    if admits:
        assert judge(asked).confidence >= Fraction("0.97")
        return
    refused = refusal_of(asked)
    assert refused.reason is Reason.INSUFFICIENT_HISTORY
    assert "of the 33 needed" in refused.message


def test_what_another_template_took_says_nothing_of_a_fresh_one() -> None:
    """Neither in the same namespace, nor the same job in another one."""
    known = learnt(endless(), *RUNS)
    fresh = endless(command=["python", "other.py"])
    for asked in (
        question(fresh, runs=known),
        question(endless(args=["--epochs=1000"]), runs=known),
        replace(
            question(endless(), runs=known),
            template=template_of("team-b", GpuJobSpec.model_validate(endless())),
        ),
    ):
        assert refusal_of(asked).reason is Reason.INSUFFICIENT_HISTORY


def test_a_refusal_names_the_deadline_that_would_be_admitted() -> None:
    """And the machine: with that deadline the gate says yes, with a longer one no."""
    refused = refusal_of(question(endless(), quotes=quotes(an_offer())))
    found = re.search(r"would admit activeDeadlineSeconds of (\d+)", refused.message)
    assert found is not None, refused.message
    assert an_offer().gpu in refused.message
    longest = int(found[1])

    assert judge(question(a_spec(activeDeadlineSeconds=longest))).run.learnt is None
    with pytest.raises(CostGateError, match="CeilingExceeded"):
        judge(question(a_spec(activeDeadlineSeconds=longest + 300)))


def test_a_refusal_says_that_no_deadline_fits() -> None:
    """Boot and destroy alone cost more than the ceiling."""
    refused = refusal_of(question(endless(cost={"ceiling": "0.05"})))
    assert refused.reason is Reason.INSUFFICIENT_HISTORY
    assert "no deadline fits the ceiling of $0.05" in refused.message


def test_a_learnt_run_time_beyond_the_ceiling_is_refused_with_what_would_fit() -> None:
    """The ceiling that is named is admitted."""
    spec = endless(cost={"ceiling": "0.3"})
    known = learnt(spec, *(20_000.0 + number for number in range(25)))
    refused = refusal_of(question(spec, runs=known))
    assert refused.reason is Reason.CEILING_EXCEEDED
    assert "learnt from 25 runs of its template" in refused.message
    found = re.search(r"a ceiling of \$([0-9.]+) would fit", refused.message)
    assert found is not None, refused.message

    assert judge(question(endless(cost={"ceiling": found[1]}), runs=known)).run.learnt is not None


def test_jobs_that_run_for_too_long_stop_the_next_one() -> None:
    """They count as longer than any bound as soon as they are."""
    spec = endless()
    known, kind = learnt(spec, *RUNS), template_of("team-a", GpuJobSpec.model_validate(spec))
    begun = NOW.timestamp() - 700
    for number in range(3):
        known.began(f"late-{number}", kind, begun)

    assert judge(question(spec, runs=known, now=at(-200), quotes=quotes(fetched_at=at(-200))))
    refused = refusal_of(question(spec, runs=known))
    assert refused.reason is Reason.UNLABELLED_BURST
    assert "3 jobs of its template run for longer" in refused.message


def test_what_was_stopped_leaves_no_bound() -> None:
    """Nobody knows how long it would have run."""
    spec = endless()
    known = learnt(spec, *RUNS, outcome=Outcome.STOPPED)
    assert refusal_of(question(spec, runs=known)).reason is Reason.INSUFFICIENT_HISTORY


@pytest.mark.parametrize("ceiling", ["5", "0.5"])
def test_a_deadline_that_does_not_fit_gives_way_to_what_such_jobs_took(ceiling: str) -> None:
    """A deadline that fits is all that counts."""
    week = a_spec(activeDeadlineSeconds=7 * 86400, cost={"ceiling": ceiling})
    known = learnt(week, *RUNS)
    contract = quotes(an_offer(contract_seconds=1e7))

    verdict = judge(question(week, runs=known, quotes=contract))
    assert verdict.run.learnt is not None
    assert refusal_of(question(week, quotes=contract)).reason is Reason.CEILING_EXCEEDED
    short = judge(question(a_spec(activeDeadlineSeconds=60, cost={"ceiling": ceiling}), runs=known))
    assert short.run.learnt is None
    assert short.run.seconds == 60


def test_the_run_bound_is_never_longer_than_the_deadline() -> None:
    """Such jobs took longer: then the deadline is the bound, and does not fit."""
    spec = a_spec(activeDeadlineSeconds=3600, cost={"ceiling": "0.3"})
    known = learnt(spec, *(20_000.0 + number for number in range(25)))
    assert "3600 s of run and" in refusal_of(question(spec, runs=known)).message


def test_a_run_without_a_deadline_ends_with_its_hosts_contract() -> None:
    """After it the price holds no longer, and the machine may go."""
    spec = endless()
    offer = an_offer(contract_seconds=5000.0)
    verdict = judge(question(spec, runs=learnt(spec, *RUNS), quotes=quotes(offer)))
    lag = Limits().destroy_lag_seconds(0)
    assert verdict.money_deadline_seconds == 5000 - lag


def test_with_very_many_machines_a_destroy_is_proved_later() -> None:
    """Each page of a listing is a request of its own, and the proof takes two listings."""
    few, many = Limits(max_leases=20), Limits(max_leases=40 * PAGE_LEASES)
    listing = 40 * Kind.LIST.interval_seconds
    queued = (many.max_leases - few.max_leases) * few.destroy_lag_per_lease_seconds

    assert listing > few.poll_seconds
    assert many.fullest_listing_seconds(0) >= listing
    later = many.destroy_lag_seconds(0) - few.destroy_lag_seconds(0)
    assert later >= queued + 2 * (listing - few.poll_seconds)


def test_what_cannot_be_read_or_reckoned_admits_nothing() -> None:
    """An unreadable history is no empty one, and a fault is no yes."""

    class Broken(Experience):
        def bound(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("by nought")

    unread = refusal_of(question(endless(), runs=None))
    assert unread.reason is Reason.INSUFFICIENT_HISTORY
    assert "cannot be read" in unread.message
    broken = refusal_of(question(endless(), runs=Broken()))
    assert broken.reason is Reason.ESTIMATOR_ERROR
    assert "by nought" in broken.message
    assert judge(question(a_spec(), runs=Broken())).run.learnt is None


def test_our_own_enforcement_stops_what_was_learnt_too() -> None:
    """Whatever such jobs take, nothing is rented that may be destroyed too late."""
    spec = endless()
    asked = question(spec, runs=learnt(spec, *RUNS), destroys=late(5, 10))
    assert refusal_of(asked).reason is Reason.CONFIDENCE_TOO_LOW
