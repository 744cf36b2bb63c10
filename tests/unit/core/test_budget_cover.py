"""Which budgets cover a job, that all of them hold an attempt or none, and the words for a job."""

from typing import Any

import pytest
from tests.builders import NOW, a_job, a_node, at, ended, stamp

from gpujob.api.gpubudget import RESERVATIONS_MAX, GpuBudget, LabelSelector
from gpujob.api.gpunode import GpuNode
from gpujob.core.budget.cover import (
    Book,
    Rejected,
    Reserved,
    book_of,
    covers,
    grow_in_all,
    may_say_more,
    reserve_in_all,
    under_way,
)
from gpujob.core.budget.ledger import Claim, Ledger, opened, reserve, settle, shrink, written
from gpujob.core.money import MICRO

LABELS = {"team": "vision", "tier": "gold"}


def a_body(
    name: str, *held: int, spent: int = 0, status: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    """A budget of 100 $ a day as stored, that holds so many dollars for n-1, n-2 and so on."""
    meta = {
        "name": name,
        "namespace": "team",
        "uid": name,
        "resourceVersion": "1",
        "creationTimestamp": stamp(-60),
    }
    body: dict[str, Any] = {"metadata": meta, "spec": {"limit": "100", "period": "Day"} | spec}
    budget = GpuBudget.model_validate(body)
    ledger: Any = opened(budget, (), NOW)
    for number, dollars in enumerate((spent, *held)):
        ledger = reserve(ledger, a_claim(dollars, f"n-{number}"), NOW)
        ledger = settle(ledger, "n-0", spent * MICRO, NOW)
    return body | {"status": written(ledger, budget.status).wire() if status is None else status}


def a_claim(dollars: int, uid: str = "new") -> Claim:
    """An attempt that may cost so much."""
    return Claim(
        node_uid=uid, node_name="train-0-1", job_uid="j-1", attempt=1, microusd=dollars * MICRO
    )


def ask(dollars: int, *bodies: dict[str, Any], is_required: bool = False) -> Reserved | Rejected:
    """Reserves so much for a new attempt of a job with LABELS."""
    books = [book_of(one) for one in bodies]
    return reserve_in_all(books, LABELS, a_claim(dollars), NOW, is_required=is_required)


def held(answer: Reserved | Rejected) -> dict[str, list[int]]:
    """By budget, what is to be stored, in dollars."""
    assert isinstance(answer, Reserved), answer
    return {
        name: [one.claim.microusd // MICRO for one in ledger.held.values()]
        for name, ledger in answer.ledgers.items()
    }


def words(answer: Reserved | Rejected) -> str:
    """Why nothing is reserved."""
    assert isinstance(answer, Rejected), answer
    return answer.message


@pytest.mark.parametrize(
    ("selector", "is_covered"),
    [
        ({}, True),
        ({"matchLabels": {"team": "vision"}}, True),
        ({"matchLabels": {"team": "vision", "tier": "iron"}}, False),
        ({"matchLabels": {"unknown": ""}}, False),
        (
            {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "vision"]}]},
            True,
        ),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "x", "operator": "In", "values": [""]}]}, False),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["vision"]}]}, False),
        ({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["vision"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "x", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, False),
        (
            {
                "matchLabels": {"team": "vision"},
                "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}],
            },
            False,
        ),
    ],
    ids=str,
)
def test_a_selector_means_what_it_means_elsewhere(
    selector: dict[str, Any], is_covered: bool
) -> None:
    """All its parts must hold, and an empty one means all jobs."""
    assert covers(LabelSelector.model_validate(selector), LABELS) is is_covered


def test_all_that_cover_hold_it() -> None:
    """And no others; what already holds it need not be stored again."""
    other: dict[str, Any] = {"selector": {"matchLabels": {"team": "sound"}}}
    ours: dict[str, Any] = {"selector": {"matchLabels": {"team": "vision"}}}

    answer = ask(10, a_body("c", 5), a_body("a", 6, **ours), a_body("b", 7, **other))

    assert held(answer) == {"a": [6, 10], "c": [5, 10]}
    assert list(held(answer)) == ["a", "c"]


def test_what_is_held_everywhere_need_not_be_stored() -> None:
    """Then the attempt may cost what is held; also after midnight, when the ledger has changed."""
    body = a_body("a", 5)
    books = [book_of(body)]

    for now in (NOW, at(86_400)):
        answer = reserve_in_all(books, LABELS, a_claim(5, "n-1"), now, is_required=True)
        assert held(answer) == {}


def test_one_that_holds_no_more_lets_none_hold_it() -> None:
    """Each that lacks money is named."""
    answer = ask(10, a_body("a", 5), a_body("b", 95), a_body("c", 60, spent=31))

    assert isinstance(answer, Rejected)
    assert answer.message == (
        "GpuBudget b has $5.000 left of $100.000, and $10.000 are to be reserved: $0.000 are "
        "spent, and $95.000 reserved for 1 attempt; it fits when attempts that are under way have "
        "ended; GpuBudget c has $9.000 left of $100.000, and $10.000 are to be reserved: "
        "$31.000 are spent, and $60.000 reserved for 1 attempt; it fits at "
        "2026-01-02T00:00:00+00:00, or when attempts have ended"
    )
    assert answer.frees_at is None


def test_a_job_waits_until_the_last_of_its_budgets_has_money() -> None:
    """In the time zone of each."""
    answer = ask(10, a_body("a", spent=95), a_body("b", spent=99, timeZone="America/New_York"))

    assert isinstance(answer, Rejected)
    assert "it fits at 2026-01-02T00:00:00+00:00" in answer.message
    assert "it fits at 2026-01-02T00:00:00-05:00" in answer.message
    assert answer.frees_at == at(17 * 3600)


def test_what_never_fits_is_said() -> None:
    """Not even in an empty period."""
    answer = ask(101, a_body("a"))

    assert words(answer).endswith("it never fits unless an administrator raises the limit")
    assert isinstance(answer, Rejected)
    assert answer.frees_at is None


def test_a_limit_that_was_lowered_leaves_nothing() -> None:
    """And is not told as less than nothing."""
    body = a_body("a", 60) | {"spec": {"limit": "50", "period": "Day"}}

    assert words(ask(1, body)).startswith("GpuBudget a has $0.000 left of $50.000")


def test_a_full_budget_says_so() -> None:
    """Whatever money it has."""
    body = a_body("a", *[0] * RESERVATIONS_MAX)

    assert words(ask(1, body)) == (
        "GpuBudget a has no room: it holds 2000 attempts, which is as many as it can; it has when "
        "one of them has ended"
    )


def test_without_a_budget_only_the_ceiling_holds() -> None:
    """Unless the operator wants one."""
    other = a_body("b", selector={"matchLabels": {"team": "sound"}})

    assert held(ask(10**6)) == {}
    assert held(ask(10**6, other)) == {}
    assert words(ask(1, other, is_required=True)) == (
        "no GpuBudget of the namespace covers this job, and the operator wants one"
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (a_body("b", status={}), "the operator has not counted yet what is under way"),
        (a_body("b", 5, status={"openedAt": stamp()}), "as many entries as it tells"),
        (a_body("b") | {"status": None}, "its field status cannot be read"),
        (a_body("b") | {"status": "x"}, "its field status cannot be read"),
        (a_body("b") | {"spec": {}}, "its field spec.limit cannot be read: Field required"),
        (
            a_body("b") | {"spec": {"limit": "1", "period": "Day", "timeZone": "Moon/Base"}},
            "timeZone 'Moon/Base' is not known",
        ),
        (
            a_body("b") | {"spec": {"limit": "1", "period": "Month", "rollingHours": 1}},
            "rollingHours must be set if period is Rolling",
        ),
    ],
    ids=["not open", "not whole", "null", "text", "no limit", "no zone", "two periods"],
)
def test_one_that_cannot_be_read_lets_none_hold_it(body: dict[str, Any], why: str) -> None:
    """Unknown is not zero."""
    answer = ask(1, a_body("a"), body)

    assert words(answer).startswith("GpuBudget b cannot be used: ")
    assert why in words(answer)


def test_one_whose_selector_cannot_be_read_covers_every_job() -> None:
    """One whose status cannot be read covers those that it selects."""
    sound = {"matchLabels": {"team": "sound"}}
    unread = a_body("b", selector=sound) | {"status": "x"}

    assert book_of(unread | {"status": {}}).selector == LabelSelector.model_validate(sound)
    assert held(ask(1, unread | {"status": {}})) == {}
    assert "cannot be used" in words(ask(1, unread))


def test_growing_is_for_all_that_hold_it() -> None:
    """Also where the labels mean them no more."""
    sound: dict[str, Any] = {"selector": {"matchLabels": {"team": "sound"}}}
    books = [book_of(a_body("a", 10)), book_of(a_body("b", 10, 80, **sound))]

    def grown(dollars: int) -> Reserved | Rejected:
        return grow_in_all(books, LABELS, a_claim(dollars, "n-1"), NOW)

    assert held(grown(20)) == {"a": [20], "b": [20, 80]}
    assert "GpuBudget b has $10.000 left" in words(grown(21))


def test_a_missing_entry_lets_nothing_grow() -> None:
    """It is not made anew, and is not taken for settled."""
    books = [book_of(a_body("a", 10)), book_of(a_body("b"))]

    answer = grow_in_all(books, LABELS, a_claim(11, "n-1"), NOW)
    assert words(answer) == (
        "GpuBudget b cannot hold more for it: it holds nothing for this attempt"
    )
    unread = Book(name="c", problem="it cannot be read")
    answer = grow_in_all([books[0], unread], LABELS, a_claim(11, "n-1"), NOW)
    assert words(answer) == "GpuBudget c cannot hold more for it: it cannot be read"


def test_a_node_says_more_only_once_its_budgets_have_followed() -> None:
    """Else a process that was stopped could take back what is reserved anew."""
    held_5 = a_body("a", 5)
    before = book_of(held_5)
    assert before.ledger is not None
    # A process decides to lower it, since the node says 0, and is stopped before it writes.
    late = shrink(before.ledger, "n-1", 0, NOW)

    # If the node said 5 again now, nothing would have to be written.
    again = reserve_in_all([before], LABELS, a_claim(5, "n-1"), NOW, is_required=True)
    assert held(again) == {}
    assert not may_say_more([before], node_of("n-1", "j-1", 0))

    # Once the budget follows, its version has changed, and what was decided before is refused.
    assert may_say_more([Book(name="a", ledger=late)], node_of("n-1", "j-1", 0))
    assert may_say_more([before], node_of("n-1", "j-1", 5))
    assert may_say_more([before], node_of("other", "j-1", 0))
    assert not may_say_more([before, Book(name="b")], node_of("n-1", "j-1", 5))


def test_a_ledger_is_not_changed_by_asking() -> None:
    """Nothing is reserved unless it is stored."""
    book = book_of(a_body("a", 5))
    before = book.ledger
    assert isinstance(before, Ledger)

    reserve_in_all([book], LABELS, a_claim(10), NOW, is_required=False)

    assert book == book_of(a_body("a", 5))
    assert before.reserved_microusd == 5 * MICRO


@pytest.mark.parametrize(
    ("selector", "held"),
    [
        ({}, {"own": 3, "other": 4, "gone": 6, "orphan": 5}),
        ({"matchLabels": {"team": "vision"}}, {"own": 3, "gone": 6, "orphan": 5}),
    ],
)
def test_a_budget_is_opened_with_all_that_may_cost(
    selector: dict[str, Any], held: dict[str, int]
) -> None:
    """Also with nodes that were deleted by force, and those whose job is gone."""
    released = ended({}) | {"releasedAt": stamp()}
    nodes = [
        node_of("own", "j-own", 3),
        node_of("other", "j-other", 4),
        node_of("orphan", "j-none", 5),
        node_of("over", "j-own", 9, released),
        # It is ended first: what it costs is not final.
        node_of("own", "j-own", 3, {"releasedAt": stamp()}),
    ]
    recorded = {"attempt": 2, "nodeName": "lost-0-2", "nodeUID": "gone"}
    jobs = [
        a_job(uid="j-own", labels=LABELS, status=recorded | {"nodeUID": "own"}),
        a_job(uid="j-other"),
        a_job(uid="j-idle", labels=LABELS),
        a_job(uid="j-lost", labels=LABELS, status=recorded | {"nodeReservedUSD": "6.000000"}),
    ]

    found = under_way(LabelSelector.model_validate(selector), nodes, jobs)

    assert {one.node_uid: one.microusd // MICRO for one in found} == held
    (lost,) = [one for one in found if one.node_uid == "gone"]
    assert (lost.node_name, lost.job_uid, lost.attempt) == ("lost-0-2", "j-lost", 2)


def test_what_a_lost_node_had_reserved_may_be_unknown() -> None:
    """Then it is all that its job may cost."""
    job = a_job(status={"attempt": 1, "nodeName": "train-0-1", "nodeUID": "gone"})

    (lost,) = under_way(LabelSelector(), [], [job])

    assert lost.microusd == 5 * MICRO


def node_of(uid: str, job: str, dollars: int, status: dict[str, Any] | None = None) -> GpuNode:
    """A node of a job, that may cost so much."""
    node = a_node((status or {}) | {"reservedUSD": f"{dollars}.000000"}, uid=uid)
    reference = node.spec.job_ref.model_copy(update={"uid": job})
    return node.model_copy(update={"spec": node.spec.model_copy(update={"job_ref": reference})})
