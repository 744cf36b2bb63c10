"""A provider whose answers are spoilt, before the controller as a process."""

import json
import random

import pytest
from tests.contract.test_hostile_answers import DATES, TOKEN, spoilt
from tests.integration.conftest import World
from tests.integration.parts import KEY, PATIENCE_SECONDS, eventually
from tests.integration.proxy import Passed, proxy

SPOILT_SHARE = 0.5


class Spoiling:
    """Changes a value, the bytes or the date of some answers."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.share = SPOILT_SHARE
        self.spoilt = 0

    def await_count(self, count: int) -> None:
        """Waits until so many are spoilt."""
        patience = PATIENCE_SECONDS + count
        eventually(f"{count} are spoilt", lambda: self.spoilt >= count, patience)

    def __call__(self, answer: Passed) -> None:
        """Spoils an answer, or leaves it."""
        chance = self._chance
        if chance.random() > self.share:
            return
        self.spoilt += 1
        if chance.random() < 0.1:
            date = chance.choice(DATES).encode("ascii", "replace").decode()
            answer.headers["Date"] = date
        elif chance.random() < 0.8:
            read = spoilt(json.loads(answer.body), chance)
            answer.body = json.dumps(read).replace(TOKEN, KEY).encode()
        else:
            at = chance.randrange(len(answer.body))
            odd = chance.randbytes(chance.choice((1, 3)))
            answer.body = answer.body[:at] + odd + answer.body[at + 1 :]


def test_what_must_end_is_ended_whatever_is_answered(
    stage: World, pytestconfig: pytest.Config
) -> None:
    """No answer ends the process or a loop of it, and none makes it tell its key."""
    world, spoiling = stage, Spoiling(20_261_129)
    answers: int = pytestconfig.getoption("spoilt")
    with proxy(world.simulator.url, alter=spoiling) as between:
        world.operator.start(GPUJOB_PROVIDER_URL=between.url)
        for turn in (1, 2, 3):
            name = f"train-{turn}"
            world.apply_job(name, command=world.waits(), cost={"ceiling": "60.00"})
            eventually(f"{name} has a machine", world.simulator.living)
            spoiling.await_count(answers * turn // 3)
            world.kubectl("delete", "gpujob", name, "-n", world.namespace, "--wait=false")
            world.await_released()
        spoiling.share = 0.0
        world.let_go()
        world.apply_job("after", command=world.waits())
        world.await_reason("after", "Complete")
    told = world.kubectl("get", "gpujobs,gpunodes,events", "-A", "-o", "json")

    assert world.operator.runs
    assert "_crashed" not in world.operator.log, "each fault of an answer is an error of the client"
    assert KEY not in world.operator.log + told
