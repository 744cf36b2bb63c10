"""The door to the provider: tickets of many loops and threads, and rents that go one at a time."""

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest

from gpujob.adapters.clock import SystemClock
from gpujob.adapters.door import RENT_PATIENCE_SECONDS, Door
from gpujob.adapters.errors import ProviderUnavailable, RateLimited
from gpujob.core.market.pace import Kind


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> datetime:
        """Returns some day."""
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        """Returns what was set."""
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    """One for each test."""
    return Clock()


def test_rents_go_one_at_a_time(clock: Clock) -> None:
    """The next one's interval begins when the former was sent, which may take a while."""
    door = Door(clock)
    clock.seconds += Kind.RENT.interval_seconds
    assert door.rent_wait("first", "a") == 0
    clock.seconds += 100
    assert door.rent_wait("second", "b") > 0
    door.rent_over("second")
    assert door.rent_wait("second", "b") > 0
    door.rent_over("first")
    assert door.rent_wait("second", "b") == pytest.approx(Kind.RENT.interval_seconds)
    clock.seconds += Kind.RENT.interval_seconds
    assert door.rent_wait("second", "b") == 0


def test_a_rent_keeps_its_place_while_it_asks_again(clock: Clock) -> None:
    """Who comes later in the same namespace goes later, and who stays away loses the place."""
    door = Door(clock)
    for uid in ("first", "second", "third"):
        assert door.rent_wait(uid, "a") > 0
    clock.seconds += Kind.RENT.interval_seconds
    assert door.rent_wait("second", "a") > 0
    assert door.rent_wait("first", "a") == 0
    door.rent_over("first")
    clock.seconds += 2 * Kind.RENT.interval_seconds + RENT_PATIENCE_SECONDS + 20
    # The second node has ended meanwhile.
    assert door.rent_wait("third", "a") == 0


def test_what_was_said_to_one_slows_down_all(clock: Clock) -> None:
    """Only for this kind of request, and until an answer of another sort."""
    door = Door(clock)
    clock.seconds += 60
    door.answered(Kind.RENT, 160.0, RateLimited("too many", retry_after_seconds=40.0))
    assert door.rent_wait("one", "a") == pytest.approx(40.0)
    clock.seconds += 40
    door.answered(Kind.DESTROY, 200.0, ProviderUnavailable("no answer"))
    assert door.rent_wait("one", "a") == 0


def test_threads_share_the_pace() -> None:
    """The sweep asks in a loop of its own."""
    door, left = Door(SystemClock(), spacing=0.05), list[float]()

    def ask() -> None:
        async def all_of_it() -> None:
            async def once() -> None:
                await door.enter(Kind.LIST)
                left.append(time.monotonic())

            await asyncio.gather(*(once() for _ in range(10)))

        asyncio.run(all_of_it())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(left) == 30
    # A request is noted a moment after its turn, the first one perhaps later than the others.
    assert max(left) - min(left) >= 28 * 0.05


async def test_who_is_cancelled_leaves_the_queue(clock: Clock) -> None:
    """Else all that come later would wait for it for ever."""
    door = Door(clock)
    waiting = asyncio.create_task(door.enter(Kind.DESTROY))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    clock.seconds += Kind.DESTROY.interval_seconds
    await door.enter(Kind.DESTROY)
