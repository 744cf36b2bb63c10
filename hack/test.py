"""Runs the parts of the test suite, and says what came of each.

Those of one lane run one after the other, beside those of the other lanes. Two lanes mostly wait;
the third only computes, and takes the processors while the others leave them idle. With a third
lane that waits too, tests wait too long for each other.
"""

import compileall
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as Xml
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from localcluster import binaries, browser, kind, project_images
from localcluster.paths import cache

ROOT = Path(__file__).resolve().parent.parent
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Part:
    """A folder of tests, and what a run of it needs."""

    name: str
    workers: int = 0
    """Processes that share its tests; 0 = one process, that of pytest itself."""
    programs: tuple[binaries.Program, ...] = ()
    """What its tests run besides our own code, and the tools of a release."""
    lane: int = 0
    """It runs beside the parts of other lanes; its output comes at its end, but for lane 0."""
    waits: bool = True
    """It waits for processes and clocks; one that only computes gives way to those that do."""


PARTS = (
    # These mostly wait for the processes that they have started, each for its own.
    Part("contract", CORES + 4),
    Part("integration", CORES + 3, binaries.CONTROL_PLANE + binaries.CHART),
    Part("chart", CORES, binaries.CHART),
    # Two workers would be two clusters.
    Part("e2e", 0, binaries.EVERYTHING, lane=1),
    # One registry and one image serve all of its tests.
    Part("release", 0, binaries.CHART, lane=1),
    # Each worker loads all of its thousands of tests first.
    Part("unit", CORES, lane=1),
    # Its worlds are played on all processors, in virtual time.
    Part("simulation", lane=2, waits=False),
)
NAMES = tuple(part.name for part in PARTS)


@dataclass(frozen=True)
class Result:
    """What came of one part."""

    part: str
    passed: int
    failed: int
    skipped: tuple[str, ...]
    seconds: float
    cpu_seconds: float
    """Of all processors together, by every process that has ended."""
    ended_well: bool


def prepare(parts: list[Part], images: Path) -> None:
    """Makes what the parts need and this machine lacks, and the images into a folder.

    On a fresh machine that takes many minutes: longer than any test may take.
    """
    engine = kind.engine()
    names = [part.name for part in parts]
    for part in parts:
        programs = part.programs
        if part.name == "e2e" and engine is not None:
            programs = binaries.KUBECTL + binaries.CHART
        binaries.ensure(programs)
    if "chart" in names:
        subprocess.run([ROOT / "hack/checkov", "--version"], check=True)
    if "contract" in names:
        subprocess.run([ROOT / "hack/clients"], check=True, stdout=subprocess.DEVNULL)
        browser.root()
    if "integration" in names:
        binaries.ensure(binaries.KUEUE)
    if "release" in names:
        binaries.ensure(binaries.RELEASE)
    if "e2e" in names or "release" in names:
        project_images.build(images)


def run(part: Part, options: list[str], images: Path, *, aside: bool = False) -> Result:
    """Runs one part; a part of which no test ran has not ended well.

    The output of one that runs aside is printed when it has ended, since the others print too.
    """
    # One write for each line: two threads print.
    print(f"=== {part.name}{' begins' if aside else ''} ===\n", end="", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpujob-test-") as scratch:
        report = Path(scratch) / "report.xml"
        command = [] if part.waits else ["nice", "-n", "19"]
        command += [sys.executable, "-m", "pytest", f"tests/{part.name}", f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider", "-q", f"--basetemp={scratch}/t"]
        command += [f"--numprocesses={part.workers}", *options]
        # Programs in Go collect their garbage later: with 400 it is an eighth of what an API server
        # does.
        settings = {"GOGC": "800"} | os.environ
        settings |= {"GPUJOB_IMAGES": str(images), "GPUJOB_LANE": str(part.lane)}
        with (Path(scratch) / "output").open("w+b") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output if aside else None,
                stderr=subprocess.STDOUT if aside else None,
                env=settings,
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            said = output.read().decode(errors="replace")
        if aside:
            print(f"=== {part.name} ===\n{said}", end="", flush=True)
        cases = list(Xml.parse(report).iter("testcase")) if report.exists() else []  # noqa: S314
    failed = [
        case for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = []
    for case in cases:
        skip = case.find("skipped")
        if skip is not None:
            name = f"{case.get('classname')}.{case.get('name')}"
            skipped.append(f"{name}: {skip.get('message')}")
    return Result(
        part=part.name,
        passed=len(cases) - len(failed) - len(skipped),
        failed=len(failed),
        skipped=tuple(skipped),
        seconds=time.monotonic() - started,
        cpu_seconds=used.ru_utime + used.ru_stime,
        ended_well=process.returncode == 0 and bool(cases),
    )


def run_all(parts: list[Part], options: list[str], images: Path) -> list[Result]:
    """Runs parts, lane by lane, and returns what came of each."""
    lanes = sorted({part.lane for part in parts})

    def run_lane(lane: int) -> list[Result]:
        chosen = [part for part in parts if part.lane == lane]
        return [run(part, options, images, aside=lane != lanes[0]) for part in chosen]

    with ThreadPoolExecutor(len(lanes)) as every:
        return [result for results in every.map(run_lane, lanes) for result in results]


def main() -> int:
    """Runs what the command line names; returns 0 only if all of it passed."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"hack/test [PART…] [OPTION…]\n\nparts: {' '.join(NAMES)}; none named: all of them")
        print("options go to pytest: `hack/test unit -k gate`, `hack/test e2e --whole`,")
        print("`hack/test simulation --seeds 0..999 --points all`, `hack/test integration -n 1 -x`")
        return 0
    cut = next((n for n, one in enumerate(arguments) if one.startswith("-")), len(arguments))
    arguments, options = arguments[:cut], [one for one in arguments[cut:] if one != "--"]
    unknown = [name for name in arguments if name not in NAMES]
    if unknown:
        print(f"hack/test: no part {unknown[0]!r}; there are {' '.join(NAMES)}", file=sys.stderr)
        return 2
    parts = [part for part in PARTS if part.name in (arguments or NAMES)]
    # Else each process compiles anew what it loads, where a machine forbids Python to keep it; and
    # at the start all of them at once.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(ROOT / "operator", quiet=1)
    with tempfile.TemporaryDirectory(dir=cache(), prefix="images-") as images:
        prepare(parts, Path(images))
        started = time.monotonic()
        results = run_all(parts, options, Path(images))
        seconds = time.monotonic() - started
    print("\npart          passed  failed  skipped  seconds  CPU seconds")
    for result in results:
        print(
            f"{result.part:<12} {result.passed:>7} {result.failed:>7} {len(result.skipped):>8} "
            f"{result.seconds:>8.0f} {result.cpu_seconds:>12.0f}"
            f"{'' if result.ended_well else '  FAILED'}"
        )
    for result in results:
        for reason in result.skipped:
            print(f"skipped: {reason}")
    passed = sum(result.passed for result in results)
    failed = sum(result.failed for result in results)
    skips = sum(len(result.skipped) for result in results)
    print(f"{passed} passed, {failed} failed, {skips} skipped in {seconds:.0f} s")
    return 0 if all(result.ended_well for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
