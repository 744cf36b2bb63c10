"""How much of all that there is to simulate is played, on all processors; and what came of it."""

import gc
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from tests.simulation.branches import Strikes, first
from tests.simulation.lives import OWNERLESS_SECONDS, UNWANTED_SECONDS, endured
from tests.simulation.storms import SEEDS
from tests.simulation.world import Verdict

REPORT = pytest.StashKey["Report"]()


def silence(*, for_good: bool = False) -> None:
    """Virtual time makes logs long: only a world that is played alone shows its log.

    Done `for_good` it costs less, but no other test may run in this process then.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=for_good,
    )


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Drops the operator's log."""
    silence()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets a run take another share of all that there is to simulate."""
    seeds = f"{SEEDS[0]}..{SEEDS[-1]}"
    parser.addoption("--seeds", default=seeds, help="storms to play, as A..B, B included")
    parser.addoption(
        "--points",
        default="1",
        help="how many calls of each life each fault strikes; "
        "or moments: each call between two changes of the world; or all: each call",
    )
    parser.addoption("--hours", type=int, default=2, help="of the job that the provider denies")
    parser.addoption("--answers", type=int, default=2_500, help="of the provider that are spoilt")
    parser.addoption(
        "--pairs",
        default="2",
        help="how many crashes of each life are followed by another fault, and how many such "
        "faults follow each; or each: every crash, and after it every answer fault once; or all",
    )


@dataclass
class Report:
    """What was played, by class of fault."""

    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def table(self) -> Iterator[str]:
        """Returns the lines for people."""
        yield f"{'fault':<20}{'worlds':>8}{'no owner':>10}{'unwanted':>10}{'over fuse':>11}"
        for name, verdicts in sorted(self.verdicts.items()):
            ownerless = max(one.ownerless_seconds for one in verdicts)
            unwanted = max(one.unwanted_seconds for one in verdicts)
            over = max(one.over_fuse_usd for one in verdicts)
            yield f"{name:<20}{len(verdicts):>8}{ownerless:>8.0f} s{unwanted:>8.0f} s{over:>11.4f}"
        for name, verdicts in self.verdicts.items():
            if met := sum((one.met for one in verdicts), Counter()):
                yield f"{name}: {', '.join(f'{kind} {met[kind]}' for kind in sorted(met))}"
        every = [one for verdicts in self.verdicts.values() for one in verdicts]
        seconds = time.monotonic() - self.began
        yield (
            f"{len(every)} worlds, {sum(one.calls for one in every)} calls in {seconds:.0f} s; "
            f"without an owner a machine may live for {OWNERLESS_SECONDS:.0f} s, unwanted for "
            f"{UNWANTED_SECONDS:.0f} s; while nobody can see whose it is, so much longer"
        )


@dataclass(frozen=True)
class Players:
    """Plays worlds on all processors, and judges them."""

    pool: ProcessPoolExecutor
    report: Report

    def map(self, play: Callable[..., Any], *given: Iterable[Any]) -> Iterator[Any]:
        """Calls a function with each of what is given, somewhere."""
        return self.pool.map(play, *given)

    def begin(self, name: str, strikes: Sequence[Strikes]) -> Callable[[], list[Verdict]]:
        """Begins to play a life with each of these faults.

        What it returns waits for what comes of each, in their order.
        """
        order = sorted(range(len(strikes)), key=lambda number: first(strikes[number]))
        processes = os.cpu_count() or 1
        # Each process plays what its worlds have in common, so each gets early and late ones.
        shares = [order[start::processes] for start in range(processes)]
        played = [
            self.pool.submit(endured, name, [strikes[number] for number in share])
            for share in shares
        ]

        def verdicts() -> list[Verdict]:
            found: dict[int, Verdict] = {}
            for share, future in zip(shares, played, strict=True):
                found |= zip(share, future.result(), strict=True)
            return [found[number] for number in range(len(strikes))]

        return verdicts

    def endure(self, name: str, strikes: Sequence[Strikes]) -> list[Verdict]:
        """Plays a life with each of these faults; returns what came of each, in their order."""
        return self.begin(name, strikes)()

    def judge(self, fault: str, played: Iterable[Verdict]) -> None:
        """Judges worlds of one class; fails with what broke and the commands that show it."""
        verdicts = list(played)
        if verdicts:
            self.report.verdicts.setdefault(fault, []).extend(verdicts)
        broken = [f"{one.again}   # {one.problem}" for one in verdicts if one.problem]
        assert not broken, "\n".join(broken)


def _begin() -> None:
    silence(for_good=True)
    gc.freeze()
    # A world leaves little that goes round in circles.
    gc.set_threshold(100_000)


@pytest.fixture(scope="session")
def players(request: pytest.FixtureRequest) -> Iterator[Players]:
    """Processes for as many worlds at once as there are processors."""
    context = multiprocessing.get_context("spawn")
    report = request.config.stash.setdefault(REPORT, Report())
    with ProcessPoolExecutor(os.cpu_count(), context, _begin) as pool:
        yield Players(pool, report)
        pool.shutdown(cancel_futures=True)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Says how much was played, and the longest that a machine lived without an owner."""
    report = config.stash.get(REPORT, None)
    if report is not None:
        terminalreporter.section("simulated")
        for line in report.table():
            terminalreporter.write_line(line)
