"""What is learnt of machines: a posterior that fades, and what follows from it in the gate."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, an_offer, quotes
from tests.unit.core.test_gate import question

from gpujob.core.cost.gate import judge
from gpujob.core.market.hosts import (
    HALF_LIFE,
    HOST_PRIOR_SUCCESSES,
    HOST_PRIOR_TRIALS,
    MACHINE_PRIOR_TRIALS,
    RECORDS_KEPT,
    TRUST_MIN,
    HostMemory,
    Record,
    Trial,
    remembered,
)

MACHINE, HOST = 100, 10
OURS = "team-a"
"""The namespace of the gate's question."""
CHEAP = an_offer()
DEARER = an_offer(
    offer_id=2, machine_id=200, host_id=20, gpu_usd_per_hour=CHEAP.gpu_usd_per_hour * 2
)


def trials(
    failed: int,
    good: int = 0,
    *,
    whose: str = OURS,
    machine: int = MACHINE,
    before: HostMemory | None = None,
) -> HostMemory:
    """A memory of fresh trials on one machine, after what was remembered before."""
    memory = before or HostMemory()
    for number in range(failed + good):
        trial = Trial(
            machine_id=machine,
            host_id=HOST,
            namespace=whose,
            node_uid=f"n-{number}",
            at=NOW,
            failed=number < failed,
            reason="HostLost" if number < failed else "Completed",
        )
        memory = remembered(memory, trial)
    return memory


def test_trust_falls_with_failures_and_comes_back_with_time() -> None:
    """An unknown machine is a good one; three fresh failures shut it out, days let it in again."""
    trust = [trials(count).trust(MACHINE, HOST, OURS, NOW) for count in range(4)]

    assert trust == sorted(trust, reverse=True)
    assert trust[0] == 0.9
    assert trust[2] > TRUST_MIN > trust[3]
    later = NOW + 2 * HALF_LIFE
    assert trials(3).trust(MACHINE, HOST, OURS, later) > TRUST_MIN


def test_successes_outweigh_an_old_failure() -> None:
    """A machine that carried ten attempts through is no bad one for one failure."""
    assert trials(1, 10).trust(MACHINE, HOST, OURS, NOW) > trials(1).trust(MACHINE, HOST, OURS, NOW)


def test_a_host_answers_for_its_machines() -> None:
    """Failures of one machine lower the trust in its neighbours, but less."""
    memory = trials(3)
    own, neighbour = memory.trust(MACHINE, HOST, OURS, NOW), memory.trust(101, HOST, OURS, NOW)

    assert own < neighbour < memory.trust(102, 99, OURS, NOW) == 0.9


def test_a_trial_that_is_told_twice_counts_once() -> None:
    """The same GpuNode may be released in two passes."""
    trial = Trial(
        machine_id=1,
        host_id=2,
        namespace=OURS,
        node_uid="n",
        at=NOW,
        failed=True,
        reason="BootTimeout",
    )
    once = remembered(HostMemory(), trial)

    assert remembered(once, trial) == once
    assert once.records[1, OURS].failures == 1


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1000))
def test_trust_is_a_probability(failed: int, good: int, days: float) -> None:
    """Whatever was seen, and however long ago."""
    trust = trials(failed, good).trust(MACHINE, HOST, OURS, NOW + timedelta(days=days))

    assert 0 < trust < 1


def test_the_memory_is_bounded() -> None:
    """What counts least is forgotten first."""
    memory = trials(3)
    for number in range(1000, 1000 + RECORDS_KEPT):
        memory = remembered(
            memory,
            Trial(
                machine_id=number,
                host_id=number,
                namespace=OURS,
                node_uid="n",
                at=NOW,
                failed=True,
                reason="HostLost",
            ),
        )

    assert len(memory.records) == RECORDS_KEPT
    assert (MACHINE, OURS) in memory.records


def test_a_distrusted_machine_is_passed_over_and_the_reason_shown() -> None:
    """Cheaper, and yet not taken."""
    admission = judge(question(quotes=quotes(CHEAP, DEARER), hosts=trials(3)))

    assert admission.offer == DEARER
    assert "machine 100 failed recently, the last time with HostLost" in admission.words


def test_doubt_is_a_price() -> None:
    """A little doubt loses against a little more money, and wins against much more."""
    near = replace(DEARER, gpu_usd_per_hour=CHEAP.gpu_usd_per_hour * 11 / 10)
    doubtful = trials(1)

    assert judge(question(quotes=quotes(CHEAP, near), hosts=doubtful)).offer == near
    words = judge(question(quotes=quotes(CHEAP, near), hosts=doubtful)).words
    assert "so its trust is only " in words
    assert judge(question(quotes=quotes(CHEAP, DEARER), hosts=doubtful)).offer == CHEAP


def test_a_machine_that_failed_this_job_is_not_taken_again() -> None:
    """Not even while everybody trusts it."""
    admission = judge(question(quotes=quotes(CHEAP, DEARER), avoided_machines=frozenset({MACHINE})))

    assert admission.offer == DEARER
    assert f"an earlier attempt of this job failed on machine {MACHINE}" in admission.words


A_AND_B = {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("failures", "asking", "is_trusted"),
    [
        pytest.param({"a": 3}, "a", False, id="its own word"),
        pytest.param({"a": 3}, "b", True, id="another one's word"),
        pytest.param({"a": 100}, "b", True, id="however often it says so"),
        pytest.param(A_AND_B, "a", False, id="two agree, one of them asks"),
        pytest.param(A_AND_B, "c", False, id="two agree, a third asks"),
        pytest.param({"a": 100, "b": 1}, "c", True, id="one exaggerates what another one saw"),
        pytest.param({"a": 100, "b": 1}, "b", True, id="one exaggerates what the asker saw"),
        pytest.param({"a": 100, "b": 2, "c": 1}, "d", False, id="two others saw enough"),
        pytest.param({"": 3}, "a", False, id="before namespaces were kept"),
    ],
)
def test_one_namespace_keeps_nobody_else_from_a_machine(
    failures: dict[str, int], asking: str, is_trusted: bool
) -> None:
    """Two that do not know of each other do."""
    memory = HostMemory()
    for whose, count in failures.items():
        memory = trials(count, whose=whose, before=memory)

    assert (memory.trust(MACHINE, HOST, asking, NOW) >= TRUST_MIN) is is_trusted


@pytest.mark.parametrize(("failed", "good"), [(1, 0), (50, 0), (0, 50), (7, 9)])
def test_what_one_other_namespace_alone_says_changes_nothing(failed: int, good: int) -> None:
    """Not even the price of a machine, nor of its neighbours, for better or worse."""
    memory = trials(failed, good, whose="a")
    for number in range(200, 220):
        memory = trials(failed, good, whose="a", machine=number, before=memory)
    neighbour = 101

    for machine in (MACHINE, neighbour):
        assert memory.trust(machine, HOST, "b", NOW) == 0.9
    ours = trials(2, 1, whose="b")
    both = trials(2, 1, whose="b", before=memory)
    for machine in (MACHINE, neighbour):
        assert both.trust(machine, HOST, "b", NOW) == ours.trust(machine, HOST, "b", NOW)


def test_whom_a_machine_failed_is_told_to_nobody_else() -> None:
    """To its own namespace with the reason, to others without a name."""
    memory = trials(3, whose="secret-project", before=trials(3, whose="b"))

    assert memory.why(MACHINE, HOST, "b").endswith("the last time with HostLost")
    told = memory.why(MACHINE, HOST, "c")
    assert told == f"machine {MACHINE} failed recently in several other namespaces"
    assert memory.why(101, HOST, "c") == f"other machines of host {HOST} failed recently"


@pytest.mark.parametrize("seed", range(20))
def test_trust_is_that_of_looking_through_all_machines(seed: int) -> None:
    """The prior of a machine is the record of all others of its host, and of no other."""
    chance = Random(seed)
    records = {
        (number, whose): Record(
            host_id=number % 4,
            failures=chance.random() * 3,
            successes=chance.random() * 9,
            at=NOW - timedelta(hours=chance.randrange(200)),
            last_failure="",
            last_node_uid="",
        )
        for number in range(30)
        for whose in chance.sample(("", OURS, "a", "b", "c"), chance.randrange(5))
    }

    def believed(told: list[tuple[str, float]]) -> float:
        by_namespace = Counter[str]()
        for whose, number in told:
            by_namespace[whose] += number  # type: ignore[assignment]
        own = by_namespace.pop("", 0.0) + by_namespace.pop(OURS, 0.0)
        return own + sum(by_namespace.values()) - max(by_namespace.values(), default=0.0)

    def posterior(prior: float, weight: float, counted: list[tuple[str, Record]]) -> float:
        good = believed([(whose, one.successes) for whose, one in counted])
        bad = believed([(whose, one.failures) for whose, one in counted])
        return (weight * prior + good) / (weight + good + bad)

    faded = [(key, one.faded(NOW)) for key, one in records.items()]
    for machine, host in ((number, number % 5) for number in range(40)):
        others = [
            (whose, one)
            for (number, whose), one in faded
            if one.host_id == host and number != machine
        ]
        prior = HOST_PRIOR_SUCCESSES / HOST_PRIOR_TRIALS
        of_host = posterior(prior, HOST_PRIOR_TRIALS, others)
        own = [(whose, one) for (number, whose), one in faded if number == machine]
        trust = posterior(of_host, MACHINE_PRIOR_TRIALS, own)

        told = HostMemory(records).trust(machine, host, OURS, NOW)
        assert told == pytest.approx(trust, rel=1e-9)
