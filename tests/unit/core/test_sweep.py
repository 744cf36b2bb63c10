"""Which machines the sweep destroys."""

from dataclasses import replace

import pytest
from tests.builders import CLUSTER, MONOTONIC, NODE_UID, a_lease, a_listing, at

from gpujob.core.limits import Limits
from gpujob.core.market.listings import Lease, Listing
from gpujob.core.sweep import Owner, orphans


def found(
    listing: Listing,
    owners: dict[str, Owner] | None = None,
    confirmed: frozenset[int] = frozenset(),
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sweeps machines that this process has seen for five minutes."""
    seen = {lease.instance_id: MONOTONIC - 300 for lease in listing.leases}
    result = orphans(
        listing,
        owners or {},
        cluster_id=CLUSTER,
        first_seen=seen,
        monotonic=MONOTONIC,
        limits=Limits(),
        confirmed=confirmed,
    )
    return result.to_destroy, result.held_back


def many(count: int) -> Listing:
    """Orphans of ours."""
    return a_listing(*(a_lease(instance_id=number) for number in range(1, count + 1)))


@pytest.mark.parametrize(
    ("lease", "owners", "destroyed"),
    [
        pytest.param(a_lease(), {}, True, id="no owner"),
        pytest.param(a_lease(), {NODE_UID: Owner(is_released=True)}, True, id="released owner"),
        pytest.param(a_lease(), {NODE_UID: Owner(is_released=False)}, False, id="live owner"),
        pytest.param(
            a_lease(label="other/n/j", env_mark="other/n/j"), {}, False, id="another cluster's"
        ),
        pytest.param(a_lease(label="mine", env_mark=None), {}, False, id="somebody's own"),
        pytest.param(a_lease(label=None, env_mark=None), {}, False, id="unmarked"),
        pytest.param(a_lease(label="renamed"), {}, True, id="relabelled: the environment counts"),
    ],
)
def test_who_is_an_orphan(lease: Lease, owners: dict[str, Owner], destroyed: bool) -> None:
    """Only a machine under this cluster's mark without a live owner."""
    assert found(a_listing(lease), owners)[0] == ((lease.instance_id,) if destroyed else ())


@pytest.mark.parametrize(
    ("age_seconds", "date_ahead_seconds", "destroyed"),
    [(10, 0, False), (300, 0, True), (10, 300, True), (300, -295, False), (300, None, False)],
)
def test_the_young_are_spared(
    age_seconds: float, date_ahead_seconds: float | None, destroyed: bool
) -> None:
    """Its node may be younger than our list of nodes; the provider's clock alone says its age."""
    lease = replace(a_lease(), started_at=at(-age_seconds))
    date = None if date_ahead_seconds is None else at(date_ahead_seconds)
    result = orphans(
        a_listing(lease, provider_time=date),
        {},
        cluster_id=CLUSTER,
        first_seen={lease.instance_id: MONOTONIC - 10},
        monotonic=MONOTONIC,
        limits=Limits(),
        confirmed=frozenset(),
    )

    assert (result.to_destroy == (lease.instance_id,)) == destroyed


def test_many_at_once_look_like_our_own_mistake() -> None:
    """Three go at once; more wait for a second pass."""
    assert found(many(3)) == ((1, 2, 3), ())
    assert found(many(4)) == ((), (1, 2, 3, 4))
    assert found(many(4), confirmed=frozenset({1, 2})) == ((1, 2), (3, 4))
