"""Faults of a spec that its schema cannot express, and faults of its shape in plain words.

The webhook looks for them before a job is stored, and the controller looks again before it rents
anything, because the webhook may have been absent.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from pydantic import ValidationError

from gpujob.api.driver_pod import CONFINEMENT, RESERVED_CLASS, RESERVED_CLASSES, DriverPod
from gpujob.api.gpujob import (
    CONFIDENCE_MAX,
    CONFIDENCE_MIN,
    CONFIDENCE_RANGE,
    MUST_EXPOSE,
    SPEC_BYTES_MAX,
    Claim,
    GpuJobSpec,
)
from gpujob.api.meta import MARKS_OF_USERS, is_below_group, is_own_key

DRIVER_BYTES_MAX = 16_384
"""Of `spec.driver`, as JSON: each of its lists is bounded, and all of them full were megabytes."""
LABELS_LENGTH_MAX = 16_384
_KEY_NAME = re.compile("[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_KEY_DOMAIN = re.compile("[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
)
IMAGE = re.compile(
    rf"(?:{_HOST}(?::[0-9]{{1,5}})?/)?{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)
"""The OCI distribution specification's grammar, plus the host and digest of container engines."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    field: str
    """Path from the root: `spec.gpu.models[0]`."""
    message: str
    """What is wrong, and what would be right."""

    def __str__(self) -> str:
        """Returns field and message in one line."""
        return f"{self.field}: {self.message}"


def spec_faults(spec: GpuJobSpec) -> tuple[Fault, ...]:
    """Returns the faults that would otherwise show only on a paid machine; empty = none found."""
    return tuple(_faults(spec))


def json_of(spec: GpuJobSpec) -> bytes:
    """Returns a spec as JSON, without what is not set."""
    return spec.model_dump_json(by_alias=True, exclude_none=True).encode()


def metadata_faults(metadata: object) -> tuple[Fault, ...]:
    """Returns what is wrong with the form of a job's metadata, as far as ours reads it.

    The API server stores none such, but anybody may send some to the webhook.
    """
    if not isinstance(metadata, Mapping):
        return (Fault("metadata", "must be an object"),)
    found = []
    for field in ("labels", "annotations"):
        if (texts := metadata.get(field)) is None:
            continue
        if not isinstance(texts, Mapping):
            found.append(Fault(f"metadata.{field}", "must be an object"))
        elif not all(isinstance(one, str) for one in texts.values()):
            found.append(Fault(f"metadata.{field}", "must hold texts alone"))
    return tuple(found)


def label_faults(labels: Mapping[str, str]) -> tuple[Fault, ...]:
    """Returns what is wrong with a job's labels: Kubernetes bounds each, but not all together."""
    size = sum(len(key) + len(value) for key, value in labels.items())
    if size <= LABELS_LENGTH_MAX:
        return ()
    words = f"have {size} characters; shorten them to {LABELS_LENGTH_MAX}"
    return (Fault("metadata.labels", words),)


def mark_faults(metadata: object) -> tuple[Fault, ...]:
    """Returns the labels and annotations of a new job that only the operator sets.

    Whatever the metadata is: others look at its form.
    """
    found = []
    for field in ("labels", "annotations"):
        marks = metadata.get(field) if isinstance(metadata, Mapping) else None
        theirs = MARKS_OF_USERS if field == "annotations" else ()
        for key in marks if isinstance(marks, Mapping) else ():
            if is_below_group(key) and key not in theirs:
                words = f"remove {_shown(key)}: only the operator sets it"
                found.append(Fault(f"metadata.{field}", words))
    return tuple(found)


def place_faults(namespace: str, own_namespace: str) -> tuple[Fault, ...]:
    """Returns what speaks against a job in a namespace; `own_namespace` is the operator's.

    The driver is given each Secret of its namespace that the job names, and the machine gets it: in
    the operator's own that is the account's key.
    """
    if namespace != own_namespace and not namespace.startswith("kube-"):
        return ()
    words = f"no GpuJob may be in {namespace}, because it could read the Secrets there; choose "
    return (Fault("metadata.namespace", f"{words}another namespace"),)


def size_fault(size: int) -> Fault:
    """Returns what is wrong with a spec of so many bytes as JSON, which are too many."""
    words = (
        f"has {size} bytes as JSON; shorten it to {SPEC_BYTES_MAX}, and keep long texts in files"
    )
    return Fault("spec", words)


def shape_faults(error: ValidationError) -> tuple[Fault, ...]:
    """Returns the faults that pydantic found in a document, each with its path.

    They are few: a list is read no further than to its first wrong item.
    """
    return tuple(
        Fault(_path(one["loc"]), one["msg"])
        for one in error.errors(include_url=False, include_input=False)
    )


def _path(parts: tuple[int | str, ...]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "the object"


def _faults(spec: GpuJobSpec) -> Iterator[Fault]:
    if (size := len(json_of(spec))) > SPEC_BYTES_MAX:
        yield size_fault(size)
        return
    yield from _money(spec)
    yield from _program(spec)
    yield from _environment(spec)
    yield from _folders(spec)
    yield from _ports(spec)
    if spec.driver is not None:
        yield from _driver(spec.driver)
    if spec.image_pull_secret is not None and not spec.image_pull_secret.expose_to_provider:
        yield Fault("spec.imagePullSecret.exposeToProvider", MUST_EXPOSE)


def _money(spec: GpuJobSpec) -> Iterator[Fault]:
    """Checks the CRD's own rules again, for a cluster that still has an older CRD."""
    for field, usd in (
        ("spec.cost.ceiling", spec.cost.ceiling),
        ("spec.market.maxUSDPerHour", spec.market.max_usd_per_hour),
    ):
        if usd is not None and Decimal(usd) <= 0:
            yield Fault(field, "must be more than 0 US dollars")
    asked = Decimal(spec.cost.confidence)
    if not Decimal(CONFIDENCE_MIN) <= asked <= Decimal(CONFIDENCE_MAX):
        yield Fault("spec.cost.confidence", CONFIDENCE_RANGE)


def _environment(spec: GpuJobSpec) -> Iterator[Fault]:
    names = Counter(one.name for one in spec.env)
    for at, one in enumerate(spec.env):
        field, source = f"spec.env[{at}]", one.value_from
        if names[one.name] > 1:
            yield Fault(f"{field}.name", f"{one.name} is set more than once; keep one of them")
        if one.value is not None and source is not None:
            yield Fault(field, "value and valueFrom are both set; remove one of them")
        if source is not None and (source.secret_key_ref is None) == (
            source.config_map_key_ref is None
        ):
            words = "exactly one of secretKeyRef and configMapKeyRef must be set"
            yield Fault(f"{field}.valueFrom", words)


def _folders(spec: GpuJobSpec) -> Iterator[Fault]:
    """Finds folders that lead outside their place, or that two copies would write to."""
    data = spec.data
    copied = [
        *((f"spec.data.inputs[{at}]", one) for at, one in enumerate(data.inputs)),
        *((f"spec.data.outputs[{at}]", one) for at, one in enumerate(data.outputs)),
        *([("spec.data.checkpoint", data.checkpoint)] if data.checkpoint else []),
    ]
    taken: dict[str, str] = {}
    for field, one in copied:
        parts = [part for part in one.path.split("/") if part]
        if not parts or {".", ".."} & set(parts):
            yield Fault(f"{field}.path", "must be the path of a folder, without . and ..")
        path = ("/" if one.path.startswith("/") else "") + "/".join(parts)
        if (other := taken.setdefault(path, field)) != field:
            words = f"{other} uses the same folder on the machine; choose another one"
            yield Fault(f"{field}.path", words)
    claims: list[tuple[str, Claim]] = [
        *copied,
        *([("spec.data.log", data.log)] if data.log else []),
    ]
    for field, claim in claims:
        if {".", ".."} & set((claim.sub_path or "").split("/")):
            yield Fault(f"{field}.subPath", "must be the path of a folder, without . and ..")


def _ports(spec: GpuJobSpec) -> Iterator[Fault]:
    names, numbers = Counter(p.name for p in spec.ports), Counter(p.port for p in spec.ports)
    for at, one in enumerate(spec.ports):
        if names[one.name] > 1:
            words = f"{one.name} is declared more than once; each port needs its own name"
            yield Fault(f"spec.ports[{at}].name", words)
        if numbers[one.port] > 1:
            words = f"{one.port} is declared more than once; remove all but one"
            yield Fault(f"spec.ports[{at}].port", words)


def _driver(driver: DriverPod) -> Iterator[Fault]:
    if (size := len(json.dumps(driver.wire()))) > DRIVER_BYTES_MAX:
        words = f"has {size} bytes of text; shorten it to {DRIVER_BYTES_MAX}"
        yield Fault("spec.driver", words)
    yield from pod_faults(driver, "spec.driver")
    if (driver.priority_class_name or "").startswith(RESERVED_CLASSES):
        yield Fault("spec.driver.priorityClassName", RESERVED_CLASS)


def pod_faults(driver: DriverPod, field: str) -> Iterator[Fault]:
    """Finds keys that no pod can have, and such as only the operator or the platform sets."""
    yield from key_faults(driver.labels, f"{field}.labels")
    yield from key_faults(driver.annotations, f"{field}.annotations")
    for key in driver.annotations:
        if key.partition("/")[0] in CONFINEMENT:
            words = f"remove {key}: drivers are confined as their runtime does it by default"
            yield Fault(f"{field}.annotations", words)
    for key in driver.node_selector:
        if not _is_key(key):
            yield Fault(f"{field}.nodeSelector", _no_key(key))


def key_faults(keys: Iterable[str], field: str) -> Iterator[Fault]:
    """Finds what is no key of a label or annotation, and such keys as only the operator sets."""
    for key in keys:
        if not _is_key(key):
            yield Fault(field, _no_key(key))
        elif is_own_key(key):
            yield Fault(field, f"remove {key}: the operator sets it itself")


def _is_key(key: str) -> bool:
    domain, slash, name = key.rpartition("/")
    has_domain = len(domain) <= 253 and _KEY_DOMAIN.fullmatch(domain) is not None
    return _KEY_NAME.fullmatch(name) is not None and (has_domain or not slash)


def _no_key(key: str) -> str:
    return f"{_shown(key)} is no key; write it like team or example.com/team"


def _program(spec: GpuJobSpec) -> Iterator[Fault]:
    if IMAGE.fullmatch(spec.image) is None:
        words = f"{_shown(spec.image)} is not a container image; write registry/name:tag"
        yield Fault("spec.image", words)
    elif spec.image.partition("@")[0].count("/") == 0 and len(spec.image) == 64:
        words = "64 hex digits are not the name of an image; write name@sha256:… for a digest"
        yield Fault("spec.image", words)
    texts = [
        *((f"spec.command[{at}]", text) for at, text in enumerate(spec.command)),
        *((f"spec.args[{at}]", text) for at, text in enumerate(spec.args)),
        *((f"spec.env[{at}].value", one.value or "") for at, one in enumerate(spec.env)),
        ("spec.workingDir", spec.working_dir or ""),
    ]
    for field, text in texts:
        if "\0" in text:
            words = "contains a NUL character, which cannot be passed to a program; remove it"
            yield Fault(field, words)
    if spec.command[0] == "":
        yield Fault("spec.command[0]", "is empty; write the name of the program to run")
    if spec.working_dir is not None and any(not sign.isprintable() for sign in spec.working_dir):
        yield Fault("spec.workingDir", "contains an unprintable character; remove it")
    for at, model in enumerate(spec.gpu.models):
        if not model.isprintable() or not model.isascii():
            words = "must be plain ASCII, like RTX 4090; see kubectl explain gpujob.spec.gpu.models"
            yield Fault(f"spec.gpu.models[{at}]", words)


def _shown(text: str) -> str:
    return f"'{text[:60]}…'" if len(text) > 60 else f"'{text}'"
