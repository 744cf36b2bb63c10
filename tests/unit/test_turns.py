"""Turns: one caller with many wishes is alone with them."""

import asyncio

import pytest

from gpujob.web.problems import Problem
from gpujob.web.turns import Turns


async def test_one_caller_does_not_make_another_wait() -> None:
    """However many of one come, they wait for one another, and the last ones are sent away."""
    turns = Turns(at_once=3, of_one=1, waiting=5)
    inside: list[str] = []
    done = asyncio.Event()

    async def come(whose: str) -> None:
        async with turns.turn(whose):
            inside.append(whose)
            await done.wait()

    greedy = [asyncio.ensure_future(come("greedy")) for _ in range(10)]
    for _ in range(5):
        await asyncio.sleep(0)
    others = [asyncio.ensure_future(come(name)) for name in ("team", "other")]
    for _ in range(5):
        await asyncio.sleep(0)

    assert inside == ["greedy", "team", "other"]
    sent_away = [one for one in greedy if one.done()]
    assert len(sent_away) == 4
    for one in sent_away:
        with pytest.raises(Problem):
            one.result()
    done.set()
    await asyncio.gather(*others, *(one for one in greedy if one not in sent_away))
    assert inside.count("greedy") == 6
