"""What a cut-off process destroys."""

import pytest
from tests.builders import (
    CLUSTER,
    INSTANCE,
    NOW,
    a_lease,
    a_listing,
    a_node,
    ended,
    leased,
    marker,
    renting,
    running,
    stamp,
)

from gpujob.core.cost.fuse import overdue

LATE = {"rent": marker(-500, moneyDeadlineSeconds=400)}
IN_TIME = {"rent": marker(-500, moneyDeadlineSeconds=501)}
UNMARKED = {"label": None, "env_mark": None}


@pytest.mark.parametrize(
    ("status", "row", "numbers"),
    [
        (running() | LATE, {}, (INSTANCE,)),
        (running() | IN_TIME, {}, ()),
        # A lost answer: only the mark tells whose it is.
        (renting() | LATE, {}, (INSTANCE,)),
        (renting() | LATE, UNMARKED, ()),
        (leased() | LATE, UNMARKED, (INSTANCE,)),
        (running() | LATE, {"instance_id": 1, **UNMARKED}, ()),
        # A node that was restored into another cluster has the number of a stranger's machine.
        (running() | LATE, {"env_mark": "other/node/job"}, ()),
        (running() | LATE, {"env_mark": None, "label": "other/node/job"}, ()),
        # Somebody named our machine anew, which the environment does not show.
        (running() | LATE, {"label": "other/node/job"}, (INSTANCE,)),
        (running() | LATE, {"env_mark": None, "label": "the big one"}, (INSTANCE,)),
        (ended(running()) | LATE | {"releasedAt": stamp()}, {}, ()),
        (None, {}, ()),
    ],
)
def test_what_is_overdue(status: object, row: dict[str, object], numbers: tuple[int, ...]) -> None:
    """Past its money deadline, not released, and ours by number or mark."""
    node = a_node(status)  # type: ignore[arg-type]
    found = overdue([node], a_listing(a_lease(**row)), cluster_id=CLUSTER, now=NOW)

    assert found == numbers
