"""Measures the cost gate: whole decisions, bounds on run time, and what a template's runs take.

The offers are of one GPU model, and all fit, each with prices and a line of its own, so that none
is left out early. So many templates are known as are kept, some of them with full windows, and so
many machines have a record. Garbage is collected as in the controller. The first decision after a
search also finds the middle price of each model, which the next ones on the same search know.
"""

import argparse
import gc
import os
import random
import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests import builders

from bench_decisions import seconds_of, show
from gpujob.api.gpujob import GpuJobSpec
from gpujob.controller.main import GARBAGE_THRESHOLDS
from gpujob.core.cost.experience import Experience, Outcome
from gpujob.core.cost.gate import judge
from gpujob.core.cost.question import CostGateError, Question
from gpujob.core.cost.template import Template, template_of
from gpujob.core.cost.window import RUNS_KEPT, Kind, Window
from gpujob.core.market.hosts import RECORDS_KEPT, HostMemory, Trial, remembered
from gpujob.core.market.offers import Offer, Quotes

FULL = 100
"""So many templates have full windows."""
LEARNT = {key: value for key, value in builders.a_spec().items() if key != "activeDeadlineSeconds"}
SPECS = {
    "with a deadline": builders.a_spec(),
    "learnt": LEARNT,
    "deadline too long": builders.a_spec(activeDeadlineSeconds=200_000),
    "too dear": builders.a_spec(cost={"ceiling": "0.05"}),
    "another GPU": builders.a_spec(gpu={"models": ["H200"]}),
    "files to copy": builders.a_spec(
        data={"maxDownloadGB": 20, "outputs": [{"claimName": "out", "path": "out"}]}
    ),
    "interruptible": builders.a_spec(market={"type": "Interruptible"}),
}


def offer(number: int) -> Offer:
    """One of many offers."""
    chance = random.Random(number)

    def between(low: float, high: float) -> Fraction:
        return Fraction(f"{chance.uniform(low, high):.6f}")

    price = between(0.2, 0.6)
    return builders.an_offer(
        offer_id=number,
        machine_id=number,
        host_id=number // 3,
        reliability=between(0.99, 1),
        gpu_usd_per_hour=price,
        lowest_bid_usd_per_hour=price * 3 / 4,
        storage_usd_per_gb_month=between(0.1, 0.3),
        download_usd_per_gb=between(0, 0.01),
        upload_usd_per_gb=between(0, 0.01),
        download_mbps=between(800, 9000),
        upload_mbps=between(50, 2000),
    )


def recorded(machines: int) -> HostMemory:
    """What is remembered when every machine that can be has a record."""
    memory, chance = HostMemory(), random.Random(1)
    for number in range(RECORDS_KEPT):
        trial = Trial(
            machine_id=chance.randint(1, max(machines, RECORDS_KEPT)),
            host_id=0,
            namespace=f"team-{number % 5}",
            node_uid=str(number),
            at=builders.NOW - timedelta(hours=chance.uniform(0, 100)),
            failed=chance.random() < 0.2,
            reason="HostLost",
        )
        memory = remembered(memory, replace(trial, host_id=trial.machine_id // 3))
    return memory


def kept_bytes(keys: int) -> float:
    """Returns how many bytes a key with a full window takes."""
    chance = random.Random(1)
    tracemalloc.start()
    windows = OrderedDict[str, Window]()
    for number in range(keys):
        window = windows[f"n-{number % 50}/{number:032x}"] = Window()
        for _ in range(RUNS_KEPT):
            window.learn(chance.randrange(10**7), Kind.EXACT)
            window.learn_score(chance.randrange(10**7))
    held = tracemalloc.get_traced_memory()[0] / len(windows)
    tracemalloc.stop()
    return held


def lived(templates: int) -> tuple[Experience, list[Template]]:
    """Returns what so many templates taught, and those of them that have full windows."""
    chance, experience = random.Random(1), Experience(keys_kept=templates)
    asked = template_of("team-a", GpuJobSpec.model_validate(LEARNT))
    others = [
        Template(f"n-{number % 50}", (f"n-{number % 50}/{number}", f"n-{number % 50}"))
        for number in range(templates)
    ]
    full = [asked, *others[-FULL + 1 :]]
    uids = iter(range(10**9))

    def run(kind: Template) -> None:
        uid, seconds = str(next(uids)), chance.lognormvariate(6, 1)
        began = builders.NOW.timestamp() - 10**6 + next(uids)
        experience.began(uid, kind, began)
        experience.ended(uid, seconds, Outcome.ENDED, began + seconds)

    for kind in (*others[: -FULL + 1], *full * RUNS_KEPT):
        run(kind)
    return experience, full


def answered(question: Question) -> None:
    """Makes one decision, whatever it is."""
    try:
        judge(question)
    except CostGateError:
        return


def judged(offers: int, rounds: int, experience: Experience) -> None:
    """Measures whole decisions about each kind of job."""
    found = builders.quotes(*(offer(number) for number in range(1, offers + 1)))
    world = replace(builders.a_world(), hosts=recorded(offers), runs=experience)
    for name, asked in SPECS.items():
        spec = GpuJobSpec.model_validate(asked)

        def question(quotes: Quotes, spec: GpuJobSpec = spec) -> Question:
            return world.question(spec, quotes, namespace="team-a")

        def first(question: Callable[[Quotes], Question] = question) -> None:
            answered(question(replace(found)))  # A search is new if it is another object.

        def following(question: Callable[[Quotes], Question] = question) -> None:
            answered(question(found))

        show(f"{name}, first", f"{offers} offers", seconds_of(first, rounds))
        following()
        show(f"{name}, next", f"{offers} offers", seconds_of(following, rounds))


def main() -> int:
    """Measures, and prints figures."""
    parser = argparse.ArgumentParser(prog="hack/bench gate", description=__doc__)
    parser.add_argument("--offers", type=int, nargs="+", default=[64, 5000])
    parser.add_argument("--templates", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=200, help="decisions of each kind")
    given: Any = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    held = kept_bytes(FULL)
    experience, full = lived(given.templates)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    print(f"{given.templates} templates are known; one with a full window takes {held:.0f} bytes")
    print(f"{'decision':<34}{'of':>18}{'p50 CPU ms':>12}{'p99 CPU ms':>12}")
    for offers in given.offers:
        judged(offers, given.rounds, experience)
    now, asked = builders.NOW.timestamp(), iter(full * given.rounds)
    took = seconds_of(lambda: experience.bound(next(asked), now), len(full) * given.rounds // 10)
    show("bound a run", f"{given.templates} templates", took)
    return 0


if __name__ == "__main__":
    sys.exit(main())
