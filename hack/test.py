"""Runs the parts of the test suite, two side by side, and says what came of each."""

import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as Xml
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from localcluster import binaries, kind, project_images
from localcluster.paths import cache

ROOT = Path(__file__).resolve().parent.parent
LANES = (("unit", "simulation", "contract", "chart", "release"), ("integration", "e2e"))
"""Parts of a lane run one after the other, lanes side by side: the one mostly computes, the other
mostly waits for the processes that it started. The end-to-end tests come last, when it is quiet."""
PARTS = tuple(part for lane in LANES for part in lane)
PRINTING = threading.Lock()
KUBECTL = binaries.CONTROL_PLANE[-1:]
PROGRAMS = {
    "unit": KUBECTL + binaries.CHART,
    "integration": binaries.CONTROL_PLANE + binaries.CHART,
    "chart": binaries.CHART,
    "release": binaries.CHART,
    "e2e": binaries.EVERYTHING,
}
"""What each part runs besides our own code, and the tools of a release."""


@dataclass(frozen=True)
class Result:
    """What came of one part."""

    part: str
    passed: int
    failed: int
    skipped: tuple[str, ...]
    seconds: float
    ended_well: bool


def prepare(parts: list[str]) -> None:
    """Makes what the parts need and this machine lacks.

    On a fresh machine that takes many minutes: longer than any test may take.
    """
    engine = kind.engine()
    for part in parts:
        programs = PROGRAMS.get(part, ())
        if part == "e2e" and engine is not None:
            programs = KUBECTL + binaries.CHART
        binaries.ensure(programs)
    if "chart" in parts:
        subprocess.run([ROOT / "hack/checkov", "--version"], check=True)
    if "release" in parts:
        binaries.ensure(binaries.RELEASE)
    if "e2e" in parts or "release" in parts:
        if engine is None:
            binaries.ensure_packages()
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            # Only for the layers that are kept; the tests build the images from them.
            project_images.build(Path(scratch))


def run(part: str, options: list[str], *, beside: bool) -> Result:
    """Runs one part; beside others, what it prints is kept until it has ended."""
    print(f"=== {part} ===" if not beside else f"{part} begins", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpujob-test-") as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"tests/{part}", f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider", "-q", f"--basetemp={scratch}/t", *options]
        if not beside:
            status = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode
        else:
            log = Path(scratch) / "log"
            with log.open("wb") as told:
                status = subprocess.run(
                    command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=told, stderr=told
                ).returncode
            with PRINTING:
                print(f"\n=== {part} ===\n{log.read_text(errors='replace')}", flush=True)
        cases = list(Xml.parse(report).iter("testcase")) if report.exists() else []  # noqa: S314
    failed = [case for case in cases if case.find("failure") is not None]
    failed += [case for case in cases if case.find("error") is not None]
    skipped = []
    for case in cases:
        skip = case.find("skipped")
        if skip is not None:
            name = f"{case.get('classname')}.{case.get('name')}"
            skipped.append(f"{name}: {skip.get('message')}")
    return Result(
        part=part,
        passed=len(cases) - len(failed) - len(skipped),
        failed=len(failed),
        skipped=tuple(skipped),
        seconds=time.monotonic() - started,
        ended_well=status == 0 and bool(cases),
    )


def main() -> int:
    """Runs what the command line names; returns 0 only if all of it passed."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"hack/test [PART…] [OPTION…]\n\nparts: {' '.join(PARTS)}; none named: all of them")
        print("options go to pytest: `hack/test unit -k gate`, `hack/test e2e --whole`,")
        print("`hack/test simulation --seeds 0..999 --points all`, `hack/test integration -x -s`")
        return 0
    cut = next((n for n, one in enumerate(arguments) if one.startswith("-")), len(arguments))
    arguments, options = arguments[:cut], [one for one in arguments[cut:] if one != "--"]
    unknown = [part for part in arguments if part not in PARTS]
    if unknown:
        print(f"hack/test: no part {unknown[0]!r}; there are {' '.join(PARTS)}", file=sys.stderr)
        return 2
    parts = [part for part in PARTS if part in (arguments or PARTS)]
    prepare(parts)
    lanes = [lane for wanted in LANES if (lane := [part for part in wanted if part in parts])]
    beside = len(lanes) > 1
    with ThreadPoolExecutor(len(lanes)) as pool:
        running = [
            pool.submit(lambda lane: [run(part, options, beside=beside) for part in lane], lane)
            for lane in lanes
        ]
        results = [result for lane in running for result in lane.result()]
    print("\npart          passed  failed  skipped  seconds")
    for result in results:
        print(
            f"{result.part:<12} {result.passed:>7} {result.failed:>7} {len(result.skipped):>8} "
            f"{result.seconds:>8.0f}{'' if result.ended_well else '  FAILED'}"
        )
    for result in results:
        for reason in result.skipped:
            print(f"skipped: {reason}")
    passed = sum(result.passed for result in results)
    failed = sum(result.failed for result in results)
    print(f"{passed} passed, {failed} failed, {sum(len(r.skipped) for r in results)} skipped")
    return 0 if all(result.ended_well for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
