"""What passes over a job and over its node do about budgets: in which order, and what waits."""

from dataclasses import replace
from typing import Any

import pytest
from tests.builders import (
    DRIVEN,
    NODE_UID,
    NOW,
    RECORDED,
    a_job,
    a_node,
    a_spec,
    a_world,
    at,
    ended,
    job_observation,
    leased,
    marker,
    node_observation,
    quotes,
    running,
    stamp,
)
from tests.unit.core.test_budget_cover import a_body

from gpujob.api.gpubudget import GpuBudget
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.budget.cover import Book, Budgets, Expected, book_of, followed
from gpujob.core.budget.ledger import Ledger, Refused, ledger_of, read_budget
from gpujob.core.budget.told import told, told_unusable
from gpujob.core.job.plan import plan_job
from gpujob.core.money import MICRO
from gpujob.core.node.plan import plan_node

FOLLOW = effects.FollowInBudgets("train-0-1", NODE_UID)


def a_book(*held: int, node: int | None = None, **spec: Any) -> Book:
    """A budget of 100 $ that holds so many dollars for others, and maybe for our node."""
    book = book_of(a_body("b", *held, **spec))
    if node is None:
        return book
    body = a_body("b", *held, node, **spec)
    for one in body["status"]["reservations"]:
        if one["nodeUID"] == f"n-{len(held) + 1}":
            one["nodeUID"] = NODE_UID
    body["status"]["reservations"].sort(key=lambda one: one["nodeUID"])
    return book_of(body)


UNREADABLE = book_of(a_body("b", status={"openedAt": stamp()}))
UNOPENED = book_of(a_body("b", status={}))


def seen_as(*books: Book) -> Budgets:
    """The budgets of the job's namespace, as they were last seen."""
    return Budgets({"team": books}, None)


# --- A job ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budgets", "is_required", "reason"),
    [
        (seen_as(a_book(96)), False, Reason.BUDGET_EXCEEDED),
        (seen_as(a_book(95)), False, None),
        (seen_as(UNREADABLE), False, Reason.BUDGET_UNUSABLE),
        (seen_as(UNOPENED), False, Reason.BUDGET_UNUSABLE),
        (seen_as(), True, Reason.BUDGET_REQUIRED),
        (seen_as(a_book(selector={"matchLabels": {"team": "x"}})), True, Reason.BUDGET_REQUIRED),
        (seen_as(), False, None),
        (Budgets({}, frozenset()), False, Reason.AWAITING_OFFERS),
    ],
)
def test_a_job_gets_a_node_only_if_its_budgets_have_money(
    budgets: Budgets, is_required: bool, reason: Reason | None
) -> None:
    """Its whole ceiling of 5 $; and the market is not even asked before."""
    world = a_world(budgets=budgets, requires_budget=is_required)
    for found in (None, quotes()):
        plan = plan_job(job_observation(world=world, quotes=found))
        if reason is None:
            asks = plan.wants_quotes if found is None else plan.effects
            assert asks
        else:
            assert plan.reason is reason
            assert not plan.wants_quotes
            assert not [one for one in plan.effects if isinstance(one, effects.CreateNode)]
            assert plan.requeue_seconds


def test_a_node_that_is_being_created_counts_as_held() -> None:
    """Else all jobs that look at once would get a node; those that are covered, and once."""
    some: dict[str, Any] = {"selector": {"matchLabels": {"team": "vision"}}}
    every: dict[str, Any] = {}
    for name, labels, spec, fits in (
        ("other-0-1", {}, every, False),
        ("other-0-1", {}, some, True),
        ("other-0-1", {"team": "vision"}, some, False),
        # It is held by now.
        ("train-0-1", {}, every, True),
    ):
        job = a_job(labels={"team": "vision"})
        expected = Expected(name, labels, 5 * MICRO)
        budgets = Budgets({"team": (a_book(91, **spec),)}, None, {"team": (expected,)})
        plan = plan_job(job_observation(job=job, world=a_world(budgets=budgets)))
        assert (plan.reason is not Reason.BUDGET_EXCEEDED) is fits, name


def test_a_job_that_waits_for_a_period_looks_again_when_it_begins() -> None:
    """Else every half a minute: an attempt may end at any time."""
    nearly = at(12 * 3600 - 7)
    spent = seen_as(book_of(a_body("b", spent=97)))
    world = replace(a_world(budgets=spent), now=nearly)
    plan = plan_job(job_observation(world=world))

    assert plan.reason is Reason.BUDGET_EXCEEDED
    assert plan.requeue_seconds == 7
    assert "GpuBudget b has $3.000 left of $100.000" in plan.message
    assert "it fits at 2026-01-02T00:00:00+00:00" in plan.message
    early = plan_job(job_observation(world=a_world(budgets=spent)))
    assert early.requeue_seconds == a_world().limits.gate_retry_seconds


def unrecorded(*books: Book, node: GpuNode | None = None) -> Any:
    """What a job does about its new node."""
    world = a_world(budgets=seen_as(*books))
    return plan_job(job_observation(world=world, node=node or a_node()))


def test_a_new_node_is_recorded_once_its_budgets_hold_it() -> None:
    """Not before, and not at all while they cannot."""
    assert unrecorded().status.node_uid == NODE_UID
    assert unrecorded(a_book(node=5)).status.node_uid == NODE_UID
    waiting = unrecorded(a_book(20))
    assert (waiting.status.node_uid, waiting.effects) == (None, (FOLLOW,))
    assert waiting.requeue_seconds == 0
    less = unrecorded(a_book(node=4))
    assert (less.status.node_uid, less.effects) == (None, (FOLLOW,))
    refused = unrecorded(a_book(97))
    assert (refused.status.node_uid, refused.effects) == (None, ())
    assert refused.reason is Reason.BUDGET_EXCEEDED


def test_a_node_that_gave_its_money_back_is_recorded_at_once() -> None:
    """It rents nothing before it has reserved again."""
    empty = a_node({"reservedUSD": "0.000000"})
    assert unrecorded(a_book(97), node=empty).status.node_reserved_usd == "0.000000"


GROWN = running() | {"reservedUSD": "9.000000"}


def recorded(*books: Book, asked: bool = True, status: dict[str, Any] = GROWN) -> Any:
    """What a job records of its attempt, which says 9 $ where 5 $ are recorded."""
    seen = job_observation(
        job=a_job(status=RECORDED), node=a_node(status), budgets=books if asked else None
    )
    return plan_job(seen)


def test_more_is_recorded_for_an_attempt_only_once_its_budgets_hold_it() -> None:
    """By that its machine's watchdog is told a later deadline."""
    assert recorded().status.node_reserved_usd == "9.000000"
    assert recorded(a_book(node=9)).status.node_reserved_usd == "9.000000"
    for books, todo in (
        ((a_book(node=5),), (FOLLOW,)),
        ((a_book(92, node=5),), ()),
        # It covers the job, and holds nothing: it has lost its entry, or is new.
        ((a_book(),), ()),
        ((UNREADABLE,), ()),
    ):
        plan = recorded(*books)
        assert plan.status.node_reserved_usd == "5.000000"
        assert plan.effects == todo
        assert plan.requeue_seconds is not None
    unasked = recorded(asked=False)
    assert unasked.wants_budgets
    assert unasked.status.node_reserved_usd == "5.000000"


def test_less_is_recorded_at_once_and_nothing_more_once_it_is_over() -> None:
    """Whatever the budgets hold."""
    less = recorded(UNREADABLE, status=DRIVEN | {"reservedUSD": "0.000000"})
    assert less.status.node_reserved_usd == "0.000000"
    over = recorded(a_book(node=5), status=ended(GROWN))
    assert (over.status.node_reserved_usd, over.effects) == ("5.000000", ())


# --- A node ---------------------------------------------------------------------------------


def ready(
    *books: Book,
    asked: bool = True,
    job: GpuJob | None = None,
    status: dict[str, Any] | None = None,
) -> Any:
    """What a node does whose driver waits."""
    job = job or a_job(status=RECORDED)
    seen = node_observation(DRIVEN | (status or {}), job=job, quotes=quotes())
    return plan_node(replace(seen, budgets=books if asked else None))


def test_a_machine_is_rented_only_if_all_budgets_hold_the_attempt() -> None:
    """As they are read for it."""
    assert isinstance(ready().effects[0], effects.Rent)
    assert isinstance(ready(a_book(node=5)).effects[0], effects.Rent)
    for books, reason, todo in (
        ((a_book(),), Reason.AWAITING_NODE, (FOLLOW,)),
        ((a_book(node=4),), Reason.AWAITING_NODE, (FOLLOW,)),
        ((a_book(97),), Reason.BUDGET_EXCEEDED, ()),
        ((UNREADABLE,), Reason.BUDGET_UNUSABLE, ()),
        ((UNOPENED,), Reason.BUDGET_UNUSABLE, ()),
    ):
        plan = ready(*books)
        assert (plan.reason, plan.effects) == (reason, todo)
        assert plan.status.rent is None
    unasked = ready(asked=False)
    assert unasked.wants_budgets
    assert (unasked.status.rent, unasked.effects) == (None, ())


def test_a_node_that_not_all_budgets_can_hold_holds_nothing() -> None:
    """What one of them has for it is given back: first the node says so, then they follow."""
    assert ready(a_book(97)).status.reserved_usd == "0.000000"
    assert ready(a_book()).status.reserved_usd is None
    seen = node_observation({}, budgets=None, world=a_world(budgets=seen_as(a_book(97))))
    assert plan_node(seen).status.reserved_usd == "0.000000"
    held = node_observation({}, budgets=None, world=a_world(budgets=seen_as(a_book(90, node=5))))
    assert plan_node(held).status.reserved_usd is None
    rented = replace(seen, node=a_node(leased()))
    assert plan_node(rented).status.reserved_usd is None


NOTHING = {"reservedUSD": "0.000000"}


def test_a_node_reserves_anew_only_if_its_budgets_have_followed() -> None:
    """Else whoever was stopped as it gave back could take away what is reserved now."""
    job = a_job(status=RECORDED | {"nodeReservedUSD": "0.000000"})
    assert ready(job=job, status=NOTHING).status.reserved_usd == "5.000000"
    assert ready(a_book(node=0), job=job, status=NOTHING).status.reserved_usd == "5.000000"
    assert ready(a_book(), job=job, status=NOTHING).status.reserved_usd == "5.000000"
    stale = ready(a_book(node=5), job=job, status=NOTHING)
    assert (stale.status.reserved_usd, stale.effects) == ("0.000000", (FOLLOW,))
    short = ready(a_book(96), job=job, status=NOTHING)
    assert (short.status.reserved_usd, short.reason) == ("0.000000", Reason.BUDGET_EXCEEDED)
    unasked = ready(asked=False, job=job, status=NOTHING)
    assert unasked.wants_budgets
    assert unasked.status.reserved_usd == "0.000000"


LONG = running() | {"rent": marker(contractSeconds=10**7, maxLeases=20)}
RAISED = a_job(spec=a_spec(cost={"ceiling": "9.00"}), status=RECORDED)


@pytest.mark.parametrize(
    ("books", "is_asked_for"),
    [
        ((), True),
        ((a_book(node=5),), True),
        ((a_book(92, node=5),), False),
        ((a_book(node=6),), False),
        ((a_book(),), False),
        ((UNREADABLE,), False),
    ],
)
def test_a_raised_ceiling_is_asked_for_only_if_the_budgets_can_hold_it(
    books: tuple[Book, ...], is_asked_for: bool
) -> None:
    """What was reserved goes on to hold."""
    plan = plan_node(node_observation(LONG, job=RAISED, budgets=books))

    assert (plan.status.extension is not None) is is_asked_for
    assert plan.status.reserved_usd == ("9.000000" if is_asked_for else None)
    assert plan.status.end is None
    unasked = plan_node(node_observation(LONG, job=RAISED, budgets=None))
    assert unasked.wants_budgets
    assert unasked.status.extension is None
    # If they cannot be read, it does not spin.
    assert (unasked.requeue_seconds or 0) >= 1


@pytest.mark.parametrize(
    ("books", "why"),
    [
        ((a_book(92, node=5),), "GpuBudget b has $3.000 left of $100.000"),
        ((a_book(),), "it holds nothing for this attempt"),
        ((UNREADABLE,), "its status does not hold as many entries as it tells"),
        ((), ""),
    ],
)
def test_why_a_raised_ceiling_does_not_hold_is_told(books: tuple[Book, ...], why: str) -> None:
    """By the running attempt, and so by its job: whoever raised it looks there."""
    seen = node_observation(LONG, job=RAISED, budgets=books)
    asked = plan_node(seen)
    up_to_date = plan_node(replace(seen, node=a_node(dict(asked.status.wire()))))

    for plan in (asked, up_to_date):
        assert ("but the raised ceiling of $9.00 does not hold yet: " in plan.message) is bool(why)
        assert why in plan.message


RELEASED = ended(leased(-600)) | {"releasedAt": stamp(-2), "accruedUSD": "1.000000"}
CHARGED = a_job(status={"attempt": 1, "attempts": []})


def test_a_node_goes_only_once_no_budget_holds_it() -> None:
    """They settle it, job or not; the finalizer waits for both."""

    def goes(*books: Book, asked: bool = True, job: GpuJob | None = CHARGED) -> Any:
        seen = node_observation(RELEASED, job=job, budgets=books if asked else None)
        plan = plan_node(seen)
        return [one for one in plan.effects if one == FOLLOW or "Finalizer" in str(one)], plan

    assert goes()[0] == [effects.RemoveFinalizer()]
    assert goes(a_book(20))[0] == [effects.RemoveFinalizer()]
    assert goes(a_book(node=5))[0] == [FOLLOW]
    assert goes(a_book(node=5), job=None)[0] == [FOLLOW]
    assert goes(a_book(node=5), job=a_job(status=RECORDED))[0] == [FOLLOW]
    # It is charged by the job later, or in full.
    assert goes(UNREADABLE)[0] == [effects.RemoveFinalizer()]
    todo, plan = goes(asked=False)
    assert todo == []
    assert plan.wants_budgets


def test_a_node_that_is_over_for_long_does_not_spin_while_the_budgets_cannot_be_read() -> None:
    """It could be closed at once if they were."""
    since = {"releasedAt": stamp(-10_000), "accruedUSD": "1.000000"}
    seen = replace(node_observation(ended(leased(-20_000)) | since, job=CHARGED), pod=None)
    assert plan_node(replace(seen, budgets=())).effects[-1] == effects.RemoveFinalizer()

    plan = plan_node(replace(seen, budgets=None))

    assert not plan.effects
    assert plan.wants_budgets
    assert (plan.requeue_seconds or 0) >= 1


# --- What a budget stores -------------------------------------------------------------------


def follow(book: Book, node: GpuNode | None, job: GpuJob | None) -> dict[str, int] | None:
    """What a budget holds in dollars once it has followed our node; None = it is too short."""
    after = followed(book, NODE_UID, node, job, NOW)
    if isinstance(after, Refused):
        return None
    return {uid: one.claim.microusd // MICRO for uid, one in after.held.items()}


@pytest.mark.parametrize(
    ("book", "status", "held"),
    [
        (a_book(), {}, {NODE_UID: 5}),
        (a_book(node=4), {}, {NODE_UID: 5}),
        (a_book(node=6), {}, {NODE_UID: 5}),
        (a_book(96), {}, None),
        (a_book(node=5), NOTHING, {NODE_UID: 0}),
        (a_book(), NOTHING, {}),
        # What its fuse lets it cost is held, whatever the node says.
        (a_book(node=5), leased() | NOTHING, {NODE_UID: 5}),
        (a_book(selector={"matchLabels": {"team": "x"}}), {}, {}),
        (a_book(node=4, selector={"matchLabels": {"team": "x"}}), {}, {NODE_UID: 5}),
        (a_book(node=5), RELEASED, {}),
        (a_book(), RELEASED, {}),
        (a_book(node=5), ended(leased()), {NODE_UID: 5}),
    ],
)
def test_a_budget_follows_what_a_node_says(
    book: Book, status: dict[str, Any], held: dict[str, int] | None
) -> None:
    """More, less, nothing, or what it has cost."""
    assert follow(book, a_node(status), a_job(status=RECORDED)) == held


def test_a_budget_takes_nothing_for_a_job_that_it_cannot_see() -> None:
    """Whose labels are not known, or of a node that is another's; what it holds it keeps."""
    assert follow(a_book(), a_node(), None) == {}
    assert follow(a_book(), a_node(), a_job(uid="j-2")) == {}
    assert follow(a_book(), a_node(uid="other"), a_job()) == {}
    assert follow(a_book(node=4), a_node(), None) == {NODE_UID: 5}


def test_a_node_that_is_gone_is_charged_in_full() -> None:
    """Unless its job says what it has cost, or has never recorded it."""

    def spent(node: GpuNode | None, job: GpuJob | None) -> int:
        after = followed(a_book(node=5), NODE_UID, node, job, NOW)
        assert isinstance(after, Ledger)
        assert not after.held
        return after.spent_microusd // MICRO

    assert spent(None, None) == 5
    assert spent(None, a_job(status=RECORDED)) == 5
    assert spent(None, a_job()) == 0
    assert spent(a_node(uid="other"), a_job(status=RECORDED)) == 5
    assert spent(a_node(RELEASED), a_job(status=RECORDED)) == 1


# --- What people are told -------------------------------------------------------------------


def test_a_budget_tells_what_is_left_and_when_it_runs_out() -> None:
    """In its columns, and once in words."""
    body = a_body("b", 20, 30, spent=10)
    budget = read_budget(body)
    machine = a_node(running() | {"usdPerHour": "9.000000", "accruedUSD": "0.000000"})
    status = told(budget, ledger_of(budget), [machine], NOW)

    (ready_now,) = status.conditions
    assert (status.phase, status.available_usd) == ("Open", "40.000000")
    assert ready_now.status == "True"
    assert ready_now.message == "$10.000 are spent and $50.000 reserved for 2 attempts"
    assert status.runs_out_at == at(10 * 3600)
    assert told(budget, ledger_of(budget), [], NOW).runs_out_at is None
    full = read_budget(a_body("b", 100))
    assert told(full, ledger_of(full), [], NOW).phase == "Exhausted"


def test_a_budget_that_cannot_be_used_says_why_and_keeps_what_it_holds() -> None:
    """Whoever repairs it needs that; and the same is not written twice."""
    body = a_body("b", 20)
    status = told_unusable(body, "its field spec.limit cannot be read", NOW)
    assert {**body["status"], **status} == status
    assert status["phase"] == "Unusable"
    assert status["conditions"][0]["reason"] == "BudgetUnusable"
    again = told_unusable(body | {"status": status}, "its field spec.limit cannot be read", at(60))
    assert again == status
    assert GpuBudget.model_validate(body | {"status": status}).status.reserved_usd == "20.000000"


def test_what_was_not_read_is_not_known() -> None:
    """Some namespaces may be closed to the operator; where all were read, none is empty."""
    some = Budgets({"team": (a_book(),)}, frozenset({"team", "other"}))
    assert some.of("third") is None
    assert some.of("other") == ()
    assert len(some.of("team") or ()) == 1
    assert Budgets({}, None).of("third") == ()
