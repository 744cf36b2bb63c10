"""What is kept of what was learnt, as the GpuJobProfiles hold it.

A template's latest runs lie in one profile, so that each counts once or not at all. What is known
of its image and command, and of its namespace, follows from these. What templates learn from each
other lies in one more, which outlives namespaces. A profile that is not whole counts as empty.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from math import ceil
from typing import Any

from pydantic import ValidationError

from gpujob.api.gpujobprofile import (
    PROFILE_VERSION,
    SECONDS_MAX,
    GpuJobProfileSpec,
    LearntRun,
)
from gpujob.core.cost.experience import Experience, Lesson, Outcome
from gpujob.core.cost.template import Template, stored_template
from gpujob.core.cost.window import scaled
from gpujob.core.node.learning import EndedRun

NOWHERE = "0" * 16 + "/" + "0" * 16
"""Stands for the template where only its namespace counts."""


@dataclass(frozen=True)
class Profile:
    """What is kept of one template, or of all jobs."""

    runs: tuple[LearntRun, ...] = ()
    """Oldest first."""
    since: datetime | None = None
    """What ended up to then is forgotten, unless it is among the runs."""

    def has_learnt(self, node_uid: str, ended: datetime) -> bool:
        """Whether a run is among these, or was so once."""
        if self.since is not None and ended <= self.since:
            return True
        return node_uid in self._uids

    @cached_property
    def _uids(self) -> frozenset[str]:
        return frozenset(one.node_uid for one in self.runs)

    def with_runs(self, more: Iterable[LearntRun], kept: int) -> "Profile":
        """Returns the profile with further runs, each once, without the oldest beyond so many.

        Where those of several namespaces are kept, the one with the most loses its oldest first.
        """
        new = {one.node_uid: one for one in more}
        runs = [
            *self.runs,
            *(one for one in new.values() if not self.has_learnt(one.node_uid, one.ended_at)),
        ]
        runs.sort(key=lambda one: (one.ended_at, one.node_uid))
        since, counts = self.since, Counter(one.namespace for one in runs)
        while len(runs) > kept:
            most = max(counts.values())
            place = next(at for at, one in enumerate(runs) if counts[one.namespace] == most)
            counts[runs[place].namespace] -= 1
            dropped = runs.pop(place)
            since = max(dropped.ended_at, since or dropped.ended_at)
        return Profile(tuple(runs), since)


def read_profile(body: Mapping[str, Any]) -> GpuJobProfileSpec | None:
    """Returns what a stored object holds; None = it is of another version, or is not whole, or
    somebody has changed it.
    """
    try:
        # As JSON, and strictly, so that nothing is taken for what it is not.
        spec = GpuJobProfileSpec.model_validate_json(json.dumps(body.get("spec")), strict=True)
    except (ValidationError, ValueError):
        return None
    whole = spec.version == PROFILE_VERSION and spec.checksum == _checksum(spec)
    return spec if whole else None


def profile_of(spec: GpuJobProfileSpec | None) -> Profile:
    """Returns the profile that was read; what is not whole is empty."""
    return Profile() if spec is None else Profile(spec.runs, spec.since)


def template_in(metadata: Mapping[str, Any], spec: GpuJobProfileSpec) -> Template | None:
    """Returns of which template of its own namespace a profile is; None = of none.

    The namespace is the object's: nothing that is written in it could make it another's.
    """
    if spec.template is None:
        return None
    template = stored_template(metadata["namespace"], spec.template)
    return template if metadata["name"] == profile_name(template) else None


def profile_name(template: Template) -> str:
    """Returns the name of a template's profile in its namespace."""
    return f"run-{template.digests.partition('/')[0]}"


def written(
    profile: Profile, *, template: Template | None, bound_seconds: float | None, now: datetime
) -> dict[str, object]:
    """Returns the spec to store."""
    bound = None if bound_seconds is None else shown_seconds(bound_seconds)
    spec = GpuJobProfileSpec(
        version=PROFILE_VERSION,
        template=template.digests if template else None,
        updated_at=now,
        since=profile.since,
        known=len(profile.runs),
        bound_seconds=bound,
        runs=profile.runs,
        checksum="0" * 64,
    )
    return spec.model_copy(update={"checksum": _checksum(spec)}).wire()


def _checksum(spec: GpuJobProfileSpec) -> str:
    body = {key: value for key, value in spec.wire().items() if key != "checksum"}
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def shown_seconds(bound: float) -> int:
    """Returns a bound for display, in whole seconds, rounded up."""
    return min(max(ceil(bound), 1), SECONDS_MAX)


# --- Runs and lessons -----------------------------------------------------------------------


def learnt_run(run: EndedRun, lesson: Lesson) -> LearntRun:
    """Returns what is kept of a run that was learnt."""
    return LearntRun(
        node_uid=run.node_uid,
        namespace=run.template.tenant,
        ended_at=run.ended,
        seconds=min(run.seconds, SECONDS_MAX),
        outcome=lesson.outcome.value,
        shared=lesson.is_shared,
        pool=lesson.pool,
        score=lesson.score,
        held=lesson.held,
    )


def lesson_of(template: Template, run: LearntRun) -> Lesson:
    """Returns what a run that is kept teaches."""
    return Lesson(
        template=template,
        value=scaled(run.seconds),
        outcome=Outcome(run.outcome),
        is_shared=run.shared,
        pool=run.pool,
        score=run.score,
        held=run.held,
    )


def restore(
    experience: Experience, of_templates: Mapping[Template, Profile], shared: Profile
) -> Iterator[None]:
    """Teaches what the profiles hold; yields after each run, since a million take seconds.

    What a template's profile holds and that of all jobs does not, since nobody could write it in
    time, is learnt for all as well.
    """
    for run in shared.runs:
        experience.learn_shared(lesson_of(stored_template(run.namespace or "", NOWHERE), run))
        yield
    runs = [(run, template) for template, one in of_templates.items() for run in one.runs]
    for run, template in sorted(runs, key=lambda one: (one[0].ended_at, one[0].node_uid)):
        lesson = lesson_of(template, run)
        experience.learn(lesson)
        if not shared.has_learnt(run.node_uid, run.ended_at):
            experience.learn_shared(lesson)
        yield


def taught_late(of_templates: Mapping[Template, Profile], shared: Profile) -> list[LearntRun]:
    """Returns the runs that are to be written to the profile of all jobs: it lacks them."""
    return [
        run.model_copy(update={"namespace": template.tenant})
        for template, one in of_templates.items()
        for run in one.runs
        if not shared.has_learnt(run.node_uid, run.ended_at)
    ]
