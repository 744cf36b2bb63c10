"""A listing asks for no pass over a running node of which it shows nothing new."""

from fractions import Fraction
from typing import Any

import pytest
from tests.builders import (
    CLUSTER,
    INSTANCE,
    a_lease,
    a_listing,
    a_node,
    booted,
    ended,
    running,
    taken_in,
)

from gpujob.core.market.listings import Lease
from gpujob.core.node.news import has_news

AGAIN = (a_lease(),)


@pytest.mark.parametrize(
    ("shown", "is_news"),
    [
        pytest.param(AGAIN, False, id="just as before"),
        pytest.param((a_lease(), a_lease(instance_id=9, label="x", env_mark="x")), False, id="not"),
        pytest.param((), True, id="not there"),
        pytest.param((a_lease(status="offline"),), True, id="offline"),
        pytest.param((a_lease(download_gb=Fraction(1)),), True, id="it has moved data"),
        pytest.param((a_lease(usd_per_hour=Fraction(1)),), True, id="dearer"),
        pytest.param((a_lease(), a_lease(instance_id=INSTANCE + 1)), True, id="a second one"),
    ],
)
def test_what_a_listing_shows_of_a_running_machine(shown: tuple[Lease, ...], is_news: bool) -> None:
    """Another's machine is nothing to it."""
    listings = taken_in(a_listing(a_lease(), ago=16), a_listing(*shown))

    assert has_news(listings, a_node(running()), cluster_id=CLUSTER) is is_news


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(twice, twice, id=name)
        for name, twice in (
            ("is to stand still", (a_lease(intended_status="stopped"),)),
            ("is offline", (a_lease(status="offline"),)),
            ("a second one", (a_lease(), a_lease(instance_id=INSTANCE + 1))),
        )
    ]
    + [
        pytest.param(
            (a_lease(), a_lease(instance_id=INSTANCE + 1)), (a_lease(),), id="the second is gone"
        )
    ],
)
def test_what_counts_in_each_listing_is_news_in_each(
    before: tuple[Lease, ...], after: tuple[Lease, ...]
) -> None:
    """A machine that stands still in three listings is paused; a second one costs until it goes."""
    listings = taken_in(a_listing(*before, ago=16), a_listing(*after))

    assert has_news(listings, a_node(running()), cluster_id=CLUSTER)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(booted(), id="boots"),
        pytest.param(ended(running()), id="is over"),
        pytest.param(
            running() | {"stop": {"at": "2026-01-01T00:00:00Z", "reason": "x"}}, id="stops"
        ),
    ],
)
def test_a_node_that_does_not_just_run_is_looked_at(status: dict[str, Any]) -> None:
    """What follows for it may hang on how many listings there were."""
    listings = taken_in(a_listing(*AGAIN, ago=16), a_listing(*AGAIN))

    assert has_news(listings, a_node(status), cluster_id=CLUSTER)


def test_one_listing_alone_is_news_and_so_is_another_accounts() -> None:
    """A process that has just begun knows nothing of what was before."""
    node = a_node(running())
    theirs = a_listing(*AGAIN, account_id=1)

    assert has_news(taken_in(a_listing(*AGAIN)), node, cluster_id=CLUSTER)
    assert has_news(taken_in(a_listing(*AGAIN, ago=16), theirs), node, cluster_id=CLUSTER)
