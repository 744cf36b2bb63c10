"""Whatever the provider answers, the controller's loops go on, and what must end is ended."""

import asyncio
import json
import random
import unicodedata
from collections.abc import Mapping
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from tests.contract.test_hostile_answers import DATES, TOKEN, spoilt
from tests.simulation.model import Chance
from tests.simulation.world import NAMESPACE, World, play

from gpujob.adapters.body import json_in
from gpujob.adapters.channel import Answer, Channel
from gpujob.adapters.errors import ProviderUnavailable
from gpujob.adapters.redact import Scrubber
from gpujob.core.job.end import is_finished

JOBS = 5
SPOILT_SHARE = 0.6
DESTROY_SECONDS = 600.0
"""The requests come through: only what is said of them is odd."""


class Spoiling:
    """A `Channel` that changes something in most answers: a value, the bytes, or the date."""

    def __init__(self, true: Channel, chance: random.Random) -> None:
        self._true, self._chance = true, chance
        self.spoilt = 0

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Makes the request; reads its spoilt answer as the client does."""
        found, headers = await self._true.request(method, path, body, query)
        if self._chance.random() > SPOILT_SHARE:
            return Answer(found, headers)
        self.spoilt += 1
        if self._chance.random() < 0.1:
            return Answer(found, {"Date": self._chance.choice(DATES)})
        raw = json.dumps(found).encode()
        if self._chance.random() < 0.8:
            return Answer(spoilt(json.loads(raw), self._chance), headers)
        place = self._chance.randrange(len(raw))
        raw = raw[:place] + self._chance.randbytes(self._chance.choice((1, 3))) + raw[place + 1 :]
        try:
            read = json_in(raw)
        except (ValueError, RecursionError):
            raise ProviderUnavailable("not JSON") from None
        if not isinstance(read, dict):
            raise ProviderUnavailable("not a JSON object")
        return Answer(read, headers)


class Blind(World):
    """A world that judges nothing: a provider may truly say that a machine is gone."""

    def check(self) -> None:
        return

    def _on_write(self, kind: str, body: Any, gone: bool, before: Any) -> None:
        self.show(kind, body, gone, before)


def test_no_answer_ends_a_loop(pytestconfig: pytest.Config) -> None:
    """Thousands are spoilt; jobs are deleted meanwhile, and their machines destroyed."""
    seed, answers = 20_261_129, pytestconfig.getoption("answers")
    said: list[dict[str, Any]] = []

    def keep(_: object, __: str, event: Any) -> Any:
        said.append(dict(event))
        raise structlog.DropEvent

    async def life() -> None:
        world = Blind(Chance(seed, level=0.0), seed=seed, run_seconds=10.0**5, exit_codes=(0,))
        channel = Spoiling(world.vast._channel, random.Random(seed))
        world.vast._channel, world.vast._scrub = channel, Scrubber([SecretStr(TOKEN)])
        now = asyncio.get_running_loop().time
        for number in range(1, JOBS + 1):
            name, tries = "", 0
            while channel.spoilt < answers * number / JOBS or not world.living():
                if not name or is_finished(world.jobs()[name].status):
                    # Some answers end a job: one whose machine has moved too much, for example.
                    tries += 1
                    name = f"job-{number}-{tries}"
                    await world.apply(name, cost={"ceiling": "60.00"}, activeDeadlineSeconds=50_000)
                # Drivers report seldom, so that it is answers that take the time.
                await asyncio.sleep(60.0 if world.living() else 0.0)
                await world.step()
                assert number * 10**5 > now(), f"{name}: no machine; {world.summary()}"
            world.kube.delete_now("GpuJob", NAMESPACE, name)
            until = now() + DESTROY_SECONDS
            while world.living():
                await world.step()
                assert now() < until, f"{name}: its machine lives; {world.summary()}"
        assert any(one.lock.is_held for one in world.replicas)
        for replica in world.replicas:
            assert not replica.has_ended, "raises what a loop died of"
        await world.end()

    print("seed", seed)  # and pytest shows it, if it fails
    structlog.configure([keep], wrapper_class=structlog.make_filtering_bound_logger(0))
    play(life)

    assert said, "it says what it cannot read"
    for event in said:
        text = "".join(str(value) for value in event.values())
        assert TOKEN not in text
        assert not [one for one in text if unicodedata.category(one) in ("Cc", "Cf")], event
