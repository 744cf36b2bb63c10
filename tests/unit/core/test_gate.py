"""The cost gate: its arithmetic, and every way in which it says no."""

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
from gpujob.core.cost.confidence import DestroyRecord
from gpujob.core.cost.estimate import Needs, estimate
from gpujob.core.cost.gate import judge
from gpujob.core.cost.leased import Leased
from gpujob.core.cost.question import CostGateError, Question
from gpujob.core.limits import Limits
from gpujob.core.market.hosts import HostMemory
from gpujob.core.market.offers import Offer, with_bid
from gpujob.core.money import MICRO


def question(spec: dict[str, Any] | None = None, **changes: Any) -> Question:
    """Asks for `a_spec` on `an_offer`, alone in the market."""
    asked = Question(
        now=NOW,
        limits=Limits(),
        spec=GpuJobSpec.model_validate(spec or a_spec()),
        spent_microusd=0,
        run_seconds_used=0,
        quotes=quotes(),
        leased=Leased(),
        destroys=(),
        avoided_machines=frozenset(),
        hosts=HostMemory(),
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
    assert "2 offers were passed over for a line too slow" in admission.words
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
    """As the market shows it: the price that we would bid is compared with those of others."""
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
        )
        for number in range(chance.randint(1, 40))
    ]
    spec = a_spec(gpu={"models": list(models)}, market={"type": market}, cost={"ceiling": "90"})
    asked = question(spec, quotes=quotes(*offers))
    limits, fitting = asked.limits, set()
    for offer in offers:
        middle = median(rate(other) for other in offers if other.gpu_model == offer.gpu_model)
        taken = with_bid(offer, asked.spec) if market == "Interruptible" else offer
        if limits.plausible_low * middle <= rate(taken) <= limits.plausible_high * middle:
            fitting |= {offer.offer_id} if offer.gpu_count == 1 else set()

    try:
        found = {one.offer.offer_id for one in matching_offers(asked)}
    except CostGateError:
        found = set()
    assert found == fitting
