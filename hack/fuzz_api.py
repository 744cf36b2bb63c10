"""Sends generated requests, made from its schema, to the HTTP API on a real API server.

They are generated in rounds, each from the next seed, until there were enough. It prints the number
of requests, and the answers by status.
"""

import argparse
import os
import secrets
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.api import Api
from tests.integration.conftest import control_plane
from tests.integration.loaded import Loader
from tests.integration.test_generated_requests import (
    CHECKS,
    answered,
    asked_server,
    faults,
    generated,
)

EXAMPLES = 60
"""Of each operation in a round."""
PHASES = "examples,fuzzing,stateful"


def say(words: str) -> None:
    """Prints a line: what the parts of a test print is not wanted here."""
    print(words, file=sys.__stdout__, flush=True)


def rounds(api: Api, folder: Path, wanted: int, seed: int) -> tuple[int, list[str]]:
    """Sends requests until there were so many; returns their number, and what is wrong."""
    cases, wrong = 0, list[str]()
    while cases < wanted and not wrong:
        # What covers each bound of the schema is the same for every seed.
        phases = PHASES if cases else f"coverage,{PHASES}"
        more, said = generated(api, folder, examples=EXAMPLES, phases=phases, seed=seed)
        cases += more
        load = os.getloadavg()[0]
        say(f"fuzz: {cases} requests after the round of seed {seed}; load {load:.1f}")
        wrong = [*([said] if said else []), *faults(api)]
        if not more:
            wrong.append("the generator has made no request")
        seed += 1
    return cases, wrong


def main() -> int:
    """Reads the options, sends the requests, and prints the figures; 1 = something is wrong."""
    parser = argparse.ArgumentParser(prog="hack/fuzz api", description=__doc__)
    parser.add_argument("--cases", type=int, default=50_000, help="generated requests, at least")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31), help="of the first round")
    options = parser.parse_args()
    say(f"fuzz: {options.cases} requests, seed {options.seed}; checks: {', '.join(CHECKS)}")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="gpujob-fuzz-") as name,
            redirect_stdout(StringIO()),
            control_plane(Path(name) / "plane") as plane,
            asked_server(plane, Path(name)) as api,
        ):
            cases, wrong = rounds(api, Path(name), options.cases, options.seed)
            answers = Counter[str]()
            for (_, status), count in answered(api).items():
                answers[status] += count
    finally:
        for loader in Loader.every.values():
            loader.close()
    say(f"fuzz: {cases} requests; answers by status: {dict(sorted(answers.items()))}")
    for fault in wrong:
        say(f"fuzz: FAILED: {fault}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
