"""What follows at once is stored in one write, but for what must be stored by itself."""

from dataclasses import replace
from typing import Any

from tests.builders import (
    DRIVEN,
    INSTANCE,
    KEYED,
    NODE_UID,
    RECORDED,
    SSH_KEY,
    a_job,
    a_lease,
    a_listing,
    a_node,
    a_pod,
    a_report,
    a_world,
    booted,
    ended,
    finished,
    job_observation,
    leased,
    node_observation,
    quotes,
    renting,
    running,
    stamp,
)

from gpujob.api.reasons import Reason
from gpujob.core.conditions import only_figures_differ, only_words_differ
from gpujob.core.effects import Destroy
from gpujob.core.node.stage import Stage, stage_of
from gpujob.core.observation import NodeMemory, RentAccepted
from gpujob.core.settling import Settled, settle_created, settle_job, settle_node


def stages(settled: Settled[Any]) -> list[Stage]:
    return [stage_of(status) for status in settled.statuses]


def reasons(settled: Settled[Any]) -> list[str]:
    ready = (next(c for c in one.conditions if c.type == "Ready") for one in settled.statuses)
    return [one.reason for one in ready]


def test_what_is_already_known_is_told_in_one_write() -> None:
    """The pod is there and has reported: nothing is waited for between the steps."""
    settled = settle_node(node_observation(KEYED, pod=a_pod(), report=a_report()))

    assert stages(settled)[:2] == [Stage.AWAITING_DRIVER, Stage.READY_TO_RENT]
    assert settled.plan.wants_quotes
    assert settled.statuses[-1].driver.ready_at is not None


def test_the_key_is_stored_before_the_pod_that_mounts_it_is_created() -> None:
    """The pod would have another key, if this one were made again."""
    known = NodeMemory(public_key=SSH_KEY)
    settled = settle_node(node_observation({}, memory=known, pod=None))

    assert settled.statuses[-1].ssh_public_key == SSH_KEY
    assert [type(one).__name__ for one in settled.plan.effects] == ["CreateDriver"]


def test_each_event_on_the_way_can_be_told() -> None:
    """A machine that was rented boots at once; people are told that it was rented."""
    known = NodeMemory(marker_seen_at=0.0, rent=RentAccepted(7))
    settled = settle_node(node_observation(renting(), memory=known))

    assert reasons(settled) == [Reason.RENTED, Reason.BOOTING]
    assert settled.statuses[-1].lease.instance_id == 7


def test_an_end_does_not_claim_that_its_destroy_was_asked_for() -> None:
    """It is stored before anybody asks, and whoever stored it may die before that."""
    seen = node_observation(running(), world=a_world(a_listing(a_lease())), report=finished(0))
    settled = settle_node(seen)

    assert settled.statuses[-1].end is not None
    assert settled.statuses[-1].destroy_asked_at is None
    assert settled.plan.effects == (Destroy((INSTANCE,)),)


def test_a_job_is_admitted_and_records_its_node_in_one_write() -> None:
    """The node is there by then. Where it could not be created, the gate's yes is stored alone."""
    first = settle_job(job_observation(node=None, quotes=quotes()))
    then = settle_created(first, a_node())
    alone = settle_created(first, None)

    assert [type(one).__name__ for one in first.plan.effects] == ["CreateNode"]
    assert then.statuses[-1].node_uid == NODE_UID
    assert then.statuses[-1].cost.estimate_usd is not None
    assert reasons(then)[: len(first.statuses)] == reasons(first)
    assert then.plan.effects == ()
    assert (alone.statuses, alone.plan.effects) == (first.statuses, ())


def test_a_machine_that_appears_after_the_end_is_recorded_before_its_destroy() -> None:
    """Else nobody would know what is to be charged, if the process died in between."""
    told = ended(renting(), "JobDeleted")
    settled = settle_node(node_observation(told, world=a_world(a_listing(a_lease()))))

    assert settled.statuses[-1].lease is not None
    assert settled.observation.node.status.lease is not None, "the plan rests on that"
    assert settled.plan.effects == (Destroy((INSTANCE,)),)


def test_an_end_of_what_rented_nothing_is_its_release() -> None:
    """There is nothing to destroy and nothing to prove."""
    settled = settle_node(node_observation(DRIVEN, job=None))

    assert list(dict.fromkeys(stages(settled))) == [Stage.ENDED_UNRENTED, Stage.RELEASED]


def test_a_job_that_has_charged_its_attempt_looks_for_its_next_node_first() -> None:
    """The node that was seen is that of the attempt before."""
    over = ended(running(), "HostLost") | {"releasedAt": stamp(-1), "accruedUSD": "0.25"}
    settled = settle_job(job_observation(job=a_job(status=RECORDED), node=a_node(over)))

    assert len(settled.statuses) == 1
    assert settled.statuses[-1].node_uid is None
    assert settled.plan.requeue_seconds == 0


def test_a_node_that_is_recorded_is_shown_in_the_same_write() -> None:
    """Its name, and how it stands."""
    settled = settle_job(job_observation(node=a_node(leased())))

    assert len(settled.statuses) == 2
    assert settled.statuses[-1].node_uid == NODE_UID
    assert settled.statuses[-1].usd_per_hour is not None


def test_what_waits_is_planned_once() -> None:
    """Nothing new is known."""
    seen = node_observation(booted(), world=a_world(a_listing(a_lease())))
    settled = settle_node(seen)

    assert len(settled.statuses) == 1
    again = settle_node(replace(seen, node=a_node(settled.statuses[-1].wire())))
    assert again.statuses[-1].wire() == settled.statuses[-1].wire()


def test_other_words_for_the_same_facts() -> None:
    """A flag that turns, a figure or another generation of the spec are no words."""
    seen = node_observation(leased(), world=a_world(a_listing(a_lease())))
    stored: dict[str, Any] = settle_node(seen).statuses[-1].wire()

    def changed(**to: Any) -> dict[str, Any]:
        first, *others = stored["conditions"]
        return stored | {"conditions": [first | to, *others]}

    assert only_words_differ(stored, changed(reason="Connecting", message="it connects"))
    assert not only_words_differ(stored, changed(reason="ProviderUnavailable"))
    assert not only_words_differ(stored, changed(status="Unknown"))
    assert not only_words_differ(stored, changed(observedGeneration=9))
    assert not only_words_differ(stored, stored | {"phase": "Running"})
    assert not only_words_differ(stored, stored | {"accruedUSD": "9.000000"})
    assert not only_words_differ({}, stored)


def test_figures_that_only_people_read() -> None:
    """What a decision or a charge may rest on is none of them."""
    seen = node_observation(running(), world=a_world(a_listing(a_lease())))
    stored: dict[str, Any] = settle_node(seen).statuses[-1].wire()
    run, lease, traffic = stored["run"], stored["lease"], stored["traffic"]
    figures = {"accruedUSD": "9.000000", "asOf": stamp(), "traffic": traffic | {"asOf": stamp()}}

    assert only_figures_differ(stored, stored | figures)
    assert only_figures_differ(stored, stored | {"run": run | {"progress": {"percent": 9}}})
    for fact in (
        {"traffic": traffic | {"downloadMB": traffic["downloadMB"] + 1}},
        {"run": run | {"startedAt": stamp()}},
        {"lease": lease | {"usdPerHour": "9.000000"}},
        {"end": {"at": stamp(), "reason": "Completed"}},
        {"phase": "Stopping"},
    ):
        assert not only_figures_differ(stored, stored | figures | fact), fact
