"""Reads traces of real jobs: their formats, and what stands for a template and a tenant in each."""

import csv
import gzip
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpujob.core.cost.experience import Outcome, outcome_by_itself
from gpujob.core.cost.template import Template

Row = Mapping[str, str]


class TraceError(ValueError):
    """A file is no trace that can be read; says where and why."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a trace; moments are seconds since the trace's own zero."""

    submitted: float
    started: float
    ended: float
    seconds: float
    gpus: float
    template: Template
    outcome: Outcome
    requested_seconds: float | None
    """What its user asked for."""


@dataclass(frozen=True)
class Format:
    """How the rows of one trace are read."""

    name: str
    columns: frozenset[str]
    """By these it is known."""
    template: Callable[[Row], Template]
    state: str = ""
    """The column that says how a job ended."""


@dataclass(frozen=True)
class Trace:
    """The jobs of one trace in the order of submission."""

    name: str
    jobs: tuple[Job, ...]


def _template(tenant: str, *keys: Iterable[str]) -> Template:
    return Template(tenant, tuple("/".join(key) for key in keys))


def _philly(row: Row) -> Template:
    return _template(row["group"], (row["group"], row["gpus"]), (row["group"],))


def _openb(row: Row) -> Template:
    # No tenant is named, so each signature counts as one.
    kind = ("kind", row["gpus"], row["qos"])
    return _template(row["group"], (row["group"],), kind)


def _dlrm(row: Row) -> Template:
    return _template(row["group"], (row["group"], row["role"]), ("role", row["role"]))


def _genai(row: Row) -> Template:
    size = (row["type"], row["steps"], row["images"])
    return _template(row["user"], (row["model"], *size), ("size", *size), ("type", row["type"]))


def _eagle(row: Row) -> Template:
    return _template(row["user"], (row["user"], row["name"]), (row["user"],))


FORMATS = (
    Format("eagle", frozenset({"submit_s", "req_walltime_s", "state"}), _eagle, "state"),
    Format("openb", frozenset({"submit_s", "group", "qos", "phase"}), _openb, "phase"),
    Format("dlrm", frozenset({"submit_s", "group", "role"}), _dlrm),
    Format("genai", frozenset({"submit_s", "user", "model", "type", "steps"}), _genai, "state"),
    Format("philly", frozenset({"submit_s", "group", "gpus", "duration_s"}), _philly),
)


def read_trace(path: Path) -> Trace:
    """Reads a trace; raises TraceError if its format is unknown or a row cannot be read."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream)
            columns = frozenset(rows.fieldnames or ())
            known = next((one for one in FORMATS if one.columns <= columns), None)
            if known is None:
                names = ", ".join(one.name for one in FORMATS)
                raise TraceError(f"{path}: these columns are of none of the traces {names}")
            jobs = [_job(known, row, f"{path}:{rows.line_num}") for row in rows]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    return Trace(known.name, tuple(sorted(jobs, key=lambda job: job.submitted)))


def _job(known: Format, row: Row, where: str) -> Job:
    try:
        submitted, ended = float(row["submit_s"]), float(row["end_s"])
        started = float(row["start_s"]) if "start_s" in row else submitted
        seconds = float(row["duration_s"])
        requested = float(row["req_walltime_s"]) if "req_walltime_s" in row else None
        gpus = float(row["gpus"]) if "gpus" in row else 1.0
        template = known.template(row)
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{where}: {error}") from error
    if not submitted <= started <= ended or not 0 < seconds < float("inf"):
        raise TraceError(
            f"{where}: submitted at {submitted}, started at {started}, ended at {ended} after "
            f"{seconds} s of running cannot be"
        )
    state = row.get(known.state, "").upper()
    by_itself = outcome_by_itself(failed=state == "FAILED", run_seconds=seconds)
    outcome = {"TIMEOUT": Outcome.STOPPED, "CANCELLED": Outcome.CUT}.get(state, by_itself)
    return Job(submitted, started, ended, seconds, gpus, template, outcome, requested)


def with_later(earlier: Trace, later: Trace) -> tuple[Trace, frozenset[int]]:
    """Returns both as one trace, and which of its jobs are only in the later one.

    A job that is in both counts once.
    """
    counts = Counter(earlier.jobs)
    new = []
    for job in later.jobs:
        if counts[job] > 0:
            counts[job] -= 1
        else:
            new.append(job)
    merged = sorted(
        [(job, False) for job in earlier.jobs] + [(job, True) for job in new],
        key=lambda one: one[0].submitted,
    )
    scored = frozenset(place for place, (_, is_new) in enumerate(merged) if is_new)
    return Trace(earlier.name, tuple(job for job, _ in merged)), scored
