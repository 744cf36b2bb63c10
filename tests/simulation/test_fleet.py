"""What counts as leased is reckoned anew when something changes that it rests on, and only then."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from tests.builders import (
    CLUSTER,
    DRIVEN,
    RECORDED,
    a_job,
    a_lease,
    a_listing,
    a_node,
    ended,
    leased,
    marker,
    renting,
    stamp,
    taken_in,
)
from tests.simulation.model import Chance, ModelKube
from tests.simulation.world import play

from gpujob.adapters.kube import Body
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.controller.cache import Cache
from gpujob.core.cost.leased import leased as counted

DEARER = leased() | {"lease": {"instanceID": 9, "usdPerHour": "0.900000", "recordedAt": stamp(-30)}}
NODES: tuple[dict[str, Any], ...] = (
    DRIVEN,
    renting(),
    renting() | {"rent": marker(maxLeases=3)},
    renting() | {"notRented": {"at": stamp(), "reason": "OfferGone", "message": ""}},
    leased(),
    leased() | {"accruedUSD": "0.100000"},
    DEARER,
    ended(leased()),
    ended(leased()) | {"releasedAt": stamp()},
)
JOBS: tuple[dict[str, Any], ...] = (
    {},
    RECORDED,
    RECORDED | {"nodeUID": "n-1"},
    RECORDED | {"nodeUID": "n-1", "nodeAccountID": 8},
)
LISTINGS = (
    taken_in(),
    taken_in(a_listing()),
    taken_in(a_listing(a_lease(), a_lease(instance_id=9, label="x", env_mark=None))),
)


def tried(story: Callable[[Cache], None]) -> None:
    """Plays a story with a cache that holds nothing."""

    async def life() -> None:
        story(Cache(ModelKube(Chance(0, level=0.0)), lambda _: None))

    play(life)


def stored(one: GpuNode | GpuJob, version: int) -> Body:
    """An object as the watch shows it."""
    body = one.model_dump(by_alias=True, mode="json", exclude_none=True)
    body["metadata"]["resourceVersion"] = str(version)
    return body


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_is_stored_that_counts(seed: int) -> None:
    """Whatever came, changed or went, in whatever order."""
    chance = Random(seed)

    def story(cache: Cache) -> None:
        for version in range(1, 60):
            number, gone = chance.randrange(3), chance.random() < 0.2
            one: GpuNode | GpuJob
            if chance.random() < 0.6:
                one = a_node(chance.choice(NODES), uid=f"n-{number}", name=f"{number}")
            else:
                one = a_job(None, chance.choice(JOBS), uid=f"j-{number}")
            list(cache.take_in(type(one).__name__, stored(one, version), gone))

            listings = chance.choice(LISTINGS)
            fleet = cache.fleet(listings, CLUSTER)
            assert fleet is cache.fleet(listings, CLUSTER)
            if listings:
                nodes, jobs = cache.nodes.values(), cache.jobs.values()
                assert fleet.leased == counted(listings[-1], nodes, jobs, cluster_id=CLUSTER)
            else:
                assert not fleet.leased.machines

    tried(story)


def test_new_figures_of_a_node_change_nothing() -> None:
    """They come with each look at it."""

    def story(cache: Cache) -> None:
        listings = LISTINGS[2]
        list(cache.take_in("GpuNode", stored(a_node(leased()), 1), gone=False))
        before = cache.fleet(listings, CLUSTER)
        later = a_node(leased() | {"accruedUSD": "0.100000", "asOf": stamp()})
        list(cache.take_in("GpuNode", stored(later, 2), gone=False))
        assert cache.fleet(listings, CLUSTER) is before

        list(cache.take_in("GpuNode", stored(a_node(DEARER), 3), gone=False))
        assert cache.fleet(listings, CLUSTER) is not before

    tried(story)
