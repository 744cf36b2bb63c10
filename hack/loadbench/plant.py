"""Many jobs that run, stored as the controller left one that really came to run."""

import json
from dataclasses import dataclass, replace
from typing import Any

from tests.integration.client import path_of
from tests.integration.parts import eventually

from gpujob.api.meta import FINALIZER
from loadbench.pods import RUNS
from loadbench.stage import Stage, a_job

Body = dict[str, Any]
ORIGINAL = "original"
KINDS = (("job", "gpujobs", False), ("node", "gpunodes", True), ("pod", "pods", True))
"""Each with its plural, and whether the operator makes it."""
OF_SERVER = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")


@dataclass(frozen=True)
class Original:
    """What is stored of a job whose workload runs."""

    job: Body
    node: Body
    pod: Body
    number: int = 0
    """Of its machine."""
    mark: str = ""

    def like(self, kind: str, name: str, uids: dict[str, str]) -> Body:
        """Returns one of the three for another job; `uids` by those of the original."""
        text = json.dumps(getattr(self, kind)).replace(ORIGINAL, name)
        for old, new in uids.items():
            text = text.replace(old, new)
        found: Body = json.loads(text)
        for field in OF_SERVER:
            found["metadata"].pop(field, None)
        return found


def one_that_runs(made: Stage) -> Original:
    """Brings one job to run, ends the controller, and returns what it has left."""
    made.start()
    made.post("gpujobs", a_job(ORIGINAL))

    def runs() -> bool:
        job = made.kubectl.get("gpujob", ORIGINAL, made.namespace) or {}
        found = {c["type"]: c["status"] for c in job.get("status", {}).get("conditions", ())}
        return found.get("Running") == "True"

    eventually("the first job runs", runs)
    made.controller.stop()
    (lease,) = made.market.ledger()
    return replace(as_stored(made), number=lease["id"], mark=lease["label"])


def as_stored(made: Stage) -> Original:
    """Returns what is stored of the original, once it has a driver pod."""
    found = [
        made.kubectl.get(kind, f"{ORIGINAL}{suffix}", made.namespace)
        for kind, suffix in (("gpujob", ""), ("gpunode", "-0-1"), ("pod", "-0-1-driver"))
    ]
    job, node, pod = (one or {} for one in found)
    assert all(found), "it has a driver pod"
    return Original(job, node, pod)


def plant(made: Stage, original: Original, names: list[str]) -> None:
    """Stores jobs like it, each with its node, its driver pod and its machine, which all run."""
    uids: list[dict[str, str]] = [{} for _ in names]
    stored: list[dict[str, Body]] = [{} for _ in names]

    def objects(at: int) -> None:
        name, known = names[at], uids[at]
        for kind, plural, is_ours in KINDS:
            body = original.like(kind, name, known)
            body.pop("status", None)
            if kind == "job":
                body["metadata"]["finalizers"] = [FINALIZER]
            if kind == "pod":
                body["metadata"]["annotations"] = {RUNS: "true"}
            found = stored[at][kind] = made.post(plural, body, operator=is_ours)
            known[getattr(original, kind)["metadata"]["uid"]] = found["metadata"]["uid"]

    made.many(objects, range(len(names)))
    marks = []
    for known in uids:
        mark = original.mark
        for old, new in known.items():
            mark = mark.replace(old, new)
        marks.append(mark)
    asked = {"number": original.number, "labels": marks}
    numbers: Any = made.market.ask("POST", "/bench/clone", asked)

    def statuses(at: int) -> None:
        for kind, plural, _ in KINDS[:2]:
            status = original.like(kind, names[at], uids[at])["status"]
            if kind == "node":
                status["lease"]["instanceID"] = numbers[at]
            body = stored[at][kind] | {"status": status}
            path = path_of(plural, body["metadata"]["name"], made.namespace)
            code, answer = made.client(operator=True).send("PUT", f"{path}/status", body)
            assert code == 200, answer

    made.many(statuses, range(len(names)))
