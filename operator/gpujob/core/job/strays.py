"""Machines under a job's mark that none of its recorded attempts explains.

A backup that is restored may be older than the attempt, and then nobody remembers its GpuNode. The
sweep destroys what no GpuNode owns; here it is charged to its job, which rents nothing meanwhile.
The sweep waits for nobody, so the machine may be gone when a pass comes to the job. A job that is
over is charged, too, and stays as it ended.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from math import ceil

from gpujob.api.gpujob import CostStatus, GpuJob, GpuJobStatus, StrayStatus
from gpujob.core.cost.estimate import traffic_microusd
from gpujob.core.job.after_attempt import ATTEMPTS_SHOWN
from gpujob.core.market.listings import Lease, Listing, Mark
from gpujob.core.money import floor_usd, format_usd, micro_up, over_time, parse_usd, short_usd
from gpujob.core.node.traffic import SAME_SECONDS
from gpujob.core.observation import JobObservation, World

KEPT_MAX = 16
"""The status holds no more."""


def strays_listed(world: World, job: GpuJob, nodes: Iterable[str | None]) -> tuple[Lease, ...]:
    """Returns the machines under the job's mark in the latest listing that are not of an attempt
    that it records, and not of these nodes (uids).
    """
    by_job = world.listings[-1].by_job if world.listings else {}
    return _unexplained(by_job, world, job, nodes)


def _unexplained(
    by_job: Mapping[tuple[str, str], Iterable[tuple[str, Lease]]],
    world: World,
    job: GpuJob,
    nodes: Iterable[str | None],
) -> tuple[Lease, ...]:
    known = {job.status.node_uid, *nodes, *(one.node_uid for one in job.status.attempts)}
    of_job = by_job.get((world.cluster_id, job.metadata.uid), ())
    return tuple(row for node_uid, row in of_job if node_uid not in known)


def jobs_with_strays(listing: Listing, owners: Container[str], cluster_id: str) -> set[str]:
    """Returns the uids of jobs that may have a stray, by a listing: they need a pass.

    `owners` has the uids of the nodes that are not released.
    """
    marks = (Mark.parse(row.mark) for row in listing.leases)
    return {
        mark.job_uid
        for mark in marks
        if mark is not None and mark.cluster_id == cluster_id and mark.node_uid not in owners
    }


def newly_charged(before: GpuJobStatus, after: GpuJobStatus) -> list[str]:
    """Returns, in words, which strays are gone only now, and what is charged for each."""
    known = {one.instance_id for one in before.strays if one.gone_at is not None}
    return [
        f"no recorded attempt has rented instance {one.instance_id}: it was destroyed, and up to "
        f"{short_usd(parse_usd(one.charged_usd))} for it is charged to the job"
        for one in after.strays
        if one.gone_at is not None and one.instance_id not in known
    ]


def owed_for(status: GpuJobStatus) -> str:
    """Returns, in words, which strays are not gone yet; empty = none is left."""
    left = [str(one.instance_id) for one in status.strays if one.gone_at is None]
    return f"no recorded attempt has rented instance {', '.join(left)}" if left else ""


def listed_for(seen: JobObservation) -> tuple[Lease, ...]:
    """Returns the job's strays; the node under its next name is none of them."""
    return strays_listed(seen.world, seen.job, _next_node(seen))


def _gone_for(seen: JobObservation) -> tuple[Lease, ...]:
    """Returns the job's strays that an earlier listing shows, and the latest does not.

    What was there before the oldest attempt on record ended may be of one that is not recorded any
    more, and was charged then.
    """
    world, attempts = seen.world, seen.job.status.attempts
    gone = _unexplained(world.listings.gone_by_job, world, seen.job, _next_node(seen))
    if len(attempts) < ATTEMPTS_SHOWN:
        return gone
    sightings = world.listings.sightings
    return tuple(
        row for row in gone if world.at(sightings[row.instance_id][0].first) > attempts[0].ended_at
    )


def _next_node(seen: JobObservation) -> list[str]:
    return [seen.node.metadata.uid] if seen.node else []


def with_strays(seen: JobObservation) -> JobObservation:
    """Returns the observation with what the job's strays have cost in its spent money."""
    job = seen.job
    if not seen.world.listings:
        return seen
    told = {one.instance_id: one for one in job.status.strays}
    gone = {row.instance_id: row for row in _gone_for(seen) if row.instance_id not in told}
    rows = gone | {row.instance_id: row for row in listed_for(seen)}
    if not rows and all(one.gone_at for one in told.values()):
        return seen
    grown = 0
    strays = []
    for number in sorted(told.keys() | rows.keys())[:KEPT_MAX]:
        one = _noted(seen, told.get(number), rows.get(number))
        if number in gone:
            one = _noted(seen, one, None)
        charged = parse_usd(one.charged_usd)
        owed = max(_cost(seen, one, rows.get(number)), charged)
        grown += owed - charged
        strays.append(one.model_copy(update={"charged_usd": format_usd(owed)}))
    cost = _grown(job.status.cost, grown)
    status = job.status.model_copy(update={"strays": tuple(strays), "cost": cost})
    return replace(seen, job=job.model_copy(update={"status": status}))


def _grown(cost: CostStatus, microusd: int) -> CostStatus:
    """Returns the figures of a job that has cost more than was known."""
    update = {
        name: format_usd(parse_usd(told) + microusd)
        for name in ("spent_usd", "accrued_usd", "final_usd")
        if (told := getattr(cost, name)) is not None
    }
    return cost.model_copy(update=update)


def _noted(seen: JobObservation, told: StrayStatus | None, row: Lease | None) -> StrayStatus:
    """Returns a stray as it is known now. None of its figures goes down."""
    now = seen.world.now
    if row is None:
        assert told is not None, "it was listed or is known"
        return told if told.gone_at else told.model_copy(update={"gone_at": now})
    rate, traffic = micro_up(row.usd_per_hour) if row.usd_per_hour else 0, 0
    if row.line and row.download_gb is not None and row.upload_gb is not None:
        traffic = micro_up(
            row.download_gb * row.line.download_usd_per_gb
            + row.upload_gb * row.line.upload_usd_per_gb
        )
    if told is not None:
        rate = max(rate, parse_usd(told.usd_per_hour))
        traffic = max(traffic, parse_usd(told.traffic_usd))
    line, most, at = 0, 0, told.traffic_as_of if told else None
    if row.line is not None:
        world = seen.world
        last = world.listings.sightings[row.instance_id][-1].last
        line, shown = micro_up(row.line.usd_per_hour), world.at(last)
        # In another pass the same listing's moment is the same but for the clocks' resolution.
        at = at if at and (shown - at).total_seconds() < SAME_SECONDS else shown
        caps, others = seen.job.spec.data, world.leased.others
        most = traffic_microusd(row.line, caps, world.limits, others=others)
    if told is not None:
        line = max(line, parse_usd(told.line_usd_per_hour))
        most = max(most, parse_usd(told.traffic_max_usd))
    began = row.started_at or seen.job.metadata.creation_timestamp
    return StrayStatus(
        instance_id=row.instance_id,
        since=min(began, told.since) if told else began,
        usd_per_hour=format_usd(rate),
        traffic_usd=format_usd(traffic),
        traffic_as_of=at,
        line_usd_per_hour=format_usd(line),
        traffic_max_usd=format_usd(most),
        charged_usd=told.charged_usd if told else format_usd(0),
    )


def _cost(seen: JobObservation, one: StrayStatus, row: Lease | None) -> int:
    """Returns the most that a stray has cost; what cannot be read, all that is left."""
    unread = row is not None and None in (
        row.usd_per_hour,
        row.line,
        row.download_gb,
        row.upload_gb,
    )
    if unread:
        spent = parse_usd(seen.job.status.cost.spent_usd) - parse_usd(one.charged_usd)
        return max(floor_usd(seen.job.spec.cost.ceiling) - spent, 0)
    seconds = ((one.gone_at or seen.world.now) - one.since).total_seconds()
    if one.gone_at is None:
        # Rounded up, so that the status does not change in each pass.
        seconds = ceil(seconds / seen.world.limits.poll_seconds) * seen.world.limits.poll_seconds
    moved = parse_usd(one.traffic_usd)
    if one.gone_at is not None and one.traffic_as_of is not None:
        unseen = (one.gone_at - one.traffic_as_of).total_seconds()
        left = max(parse_usd(one.traffic_max_usd) - moved, 0)
        moved += min(over_time(parse_usd(one.line_usd_per_hour), unseen), left)
    return over_time(parse_usd(one.usd_per_hour), seconds) + moved
