"""The webhook's answer: all faults at once, and warnings about what is probably a mistake.

It is a pure function of the object and of the market notes that the leader publishes. So every
replica gives the same answer, and the API server never waits for the provider.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from gpujob.api.gpujob import SPEC_BYTES_MAX, GpuJobSpec
from gpujob.api.notes import MarketNotes, RunNote
from gpujob.core.cost.experience import ERROR
from gpujob.core.cost.template import template_of
from gpujob.core.market.floors import least_microusd
from gpujob.core.market.gpu_models import KNOWN, meant_by, plain
from gpujob.core.money import floor_usd, short_usd
from gpujob.core.spec_faults import (
    Fault,
    label_faults,
    metadata_faults,
    shape_faults,
    size_fault,
    spec_faults,
)

FAULTS_TOLD = 20
HINTS_TOLD = 2
"""So many unknown GPU models are compared with all known ones, which takes milliseconds each."""
UNLED = "no controller leads now: no job is looked at until one does; if that lasts, see its pods"
TRACKED = frozenset(
    {
        "argocd.argoproj.io/instance",
        "argocd.argoproj.io/tracking-id",
        "kustomize.toolkit.fluxcd.io/name",
        "helm.toolkit.fluxcd.io/name",
    }
)
"""Labels and annotations of GitOps tools: they create again what carries one and was deleted."""


@dataclass(frozen=True)
class Review:
    """The faults and the warnings of one object."""

    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """All faults in one line, as kubectl shows them."""
        told = "; ".join(str(fault) for fault in self.faults[:FAULTS_TOLD])
        more = len(self.faults) - FAULTS_TOLD
        return f"{told}; and {more} more" if more > 0 else told


def review(
    body: Mapping[str, Any],
    notes: MarketNotes | None = None,
    *,
    now: datetime,
    nobody_leads: bool = False,
) -> Review:
    """Reviews a GpuJob that somebody wants to store; an answer for any object, never an error.

    `nobody_leads` says that no controller is there to decide on it.
    """
    # From JSON, and strictly, so that the text "1" does not pass for a number.
    text = json.dumps(body.get("spec"), ensure_ascii=False, separators=(",", ":"))
    if (size := len(raw := text.encode(errors="replace"))) > SPEC_BYTES_MAX:
        return Review((size_fault(size),))
    try:
        spec = GpuJobSpec.model_validate_json(raw, strict=True)
    except ValidationError as error:
        faults = shape_faults(error)
        return Review(tuple(Fault(_below_spec(one.field), one.message) for one in faults))
    known = KNOWN | {*(notes.models if notes else ())} | {*(notes.floors if notes else ())}
    metadata = body.get("metadata", {})
    if wrong := metadata_faults(metadata):
        return Review(wrong)
    labels = label_faults(metadata.get("labels") or {})
    faults = (*labels, *spec_faults(spec), *_model_faults(spec, known))
    known_run = _known_run(metadata, spec, notes)
    warnings = _warnings(spec, metadata, known_run)
    unled = (UNLED,) if nobody_leads else ()
    return Review(faults, (*unled, *warnings, *_too_little(spec, notes, now, known_run)))


def _below_spec(field: str) -> str:
    return "spec" if field == "the object" else f"spec.{field}"


def _model_faults(spec: GpuJobSpec, known: frozenset[str]) -> tuple[Fault, ...]:
    by_plain = {plain(name): name for name in sorted(known)}
    found: list[Fault] = []
    for at, (model, meant) in enumerate(zip(spec.gpu.models, meant_by(spec.gpu), strict=True)):
        if not model.isprintable() or not model.isascii() or model in known:
            continue
        words = meant.doubt
        if not words and not known.issuperset(meant.models):
            near = _nearest(plain(model), [*by_plain]) if len(found) < HINTS_TOLD else None
            hint = f"did you mean '{by_plain[near]}'?" if near else "write it like 'RTX 4090'"
            words = f"the market has no GPU called '{model}'; {hint}"
        if words:
            found.append(Fault(f"spec.gpu.models[{at}]", words))
    return tuple(found)


def _nearest(text: str, known: list[str]) -> str | None:
    if text in known:
        return text
    return next(iter(get_close_matches(text, known, n=1, cutoff=0.6)), None)


def _known_run(
    metadata: Mapping[str, Any], spec: GpuJobSpec, notes: MarketNotes | None
) -> RunNote | None:
    """Returns what the gate would take for the run time of a job without a deadline, if that is
    published: for the least confidence, which most jobs ask for.
    """
    namespace = metadata.get("namespace")
    is_told = spec.active_deadline_seconds is None and notes is not None
    if not is_told or not isinstance(namespace, str) or Fraction(spec.cost.confidence) > 1 - ERROR:
        return None
    return notes.runs.get(template_of(namespace, spec).keys[0]) if notes else None


def _too_little(
    spec: GpuJobSpec, notes: MarketNotes | None, now: datetime, known_run: RunNote | None
) -> tuple[str, ...]:
    """Warns if even the cheapest machine of the last day would cost more than the ceiling."""
    run_seconds = spec.active_deadline_seconds or (known_run.seconds if known_run else None)
    least = least_microusd(spec, notes, now, run_seconds) if notes else None
    if least is None or floor_usd(spec.cost.ceiling) >= least:
        return ()
    needed = short_usd(least)
    return (
        f"spec.cost.ceiling: at today's lowest price the job costs over {needed}; raise it or wait",
    )


def _warnings(
    spec: GpuJobSpec, metadata: Mapping[str, Any], known_run: RunNote | None
) -> tuple[str, ...]:
    """Returns warnings of at most 120 characters: the API server may cut longer ones."""
    found = []
    marks = {*(metadata.get("labels") or {}), *(metadata.get("annotations") or {})}
    if spec.ttl_seconds_after_finished is not None and marks & TRACKED:
        found.append(
            "spec.ttlSecondsAfterFinished: GitOps creates a deleted job again, and you pay again"
        )
    for at, (model, meant) in enumerate(zip(spec.gpu.models, meant_by(spec.gpu), strict=True)):
        if len(meant.models) > 1:
            several = ", ".join(meant.models)
            found.append(f"spec.gpu.models[{at}]: '{model}' is taken for any of {several}")
    if spec.active_deadline_seconds is None:
        words = "the job may wait until enough runs of such jobs are known"
        if known_run is not None:
            words = f"by {known_run.runs} runs, it takes up to {known_run.seconds} s with 95 %"
        found.append(f"spec.activeDeadlineSeconds is not set: {words}")
    if spec.market.hosts == "Any":
        found.append(
            "spec.market.hosts is Any: your data may go to a host that nobody has verified"
        )
    if spec.image_pull_secret is not None:
        found.append(
            "spec.imagePullSecret: provider and host can read it; use a short-lived read-only token"
        )
    if ":" not in spec.image.rpartition("/")[2]:
        found.append("spec.image has no tag or digest: two attempts may run different images")
    return tuple(found)
