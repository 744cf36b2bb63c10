"""No right that nobody uses: what the chart grants, less what the end-to-end tests asked for.

Reads the audit log of the cluster, so it comes last, and is for whole runs only.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.e2e.conftest import is_whole, keep_heard

from demo import Stage
from localcluster.node import Node

NAMESPACE = "gpujob-system"
ACCOUNTS = ("gpujob", "gpujob-server")
"""Controller and server."""


class Right(NamedTuple):
    """One verb of one account."""

    account: str
    namespace: str
    """Empty = in all."""
    group: str
    resource: str
    """With its part, as `gpujobs/status`; or the path of what is no resource."""
    verb: str
    name: str
    """Of the one object; empty = of all."""


OWNERS = "asked by the plug-in OwnerReferencesPermissionEnforcement, within another request"
CALLERS = "for callers of the HTTP API; integration/test_http_api.py asks for it"
UNSEEN = {
    ("gpujob", "pods", "delete"): "a driver that has not left a minute after its attempt",
    ("gpujob", "secrets", "delete"): "a key that a pass made which was cut off",
    (
        "gpujob",
        "secrets",
        "update",
    ): "the next certificates; integration/test_admission.py and test_tls.py make them",
    ("gpujob", "configmaps", "update"): "the next authorities; integration/test_tls.py makes them",
    (
        "gpujob",
        "endpointslices",
        "update",
    ): "of the address family that the cluster lacks; integration/test_address.py has both",
    ("gpujob", "secrets", "get"): "whether a key that was refused was replaced; "
    "integration/test_readiness.py replaces one",
    ("gpujob", "gpunodes", "delete"): "a released node, a day later",
    (
        "gpujob",
        "gpujobprofiles",
        "delete",
    ): "the oldest of a namespace with a hundred; simulation/test_learning.py makes room",
    ("gpujob", "subjectaccessreviews", "create"): "metrics; integration/test_chart.py reads them",
    ("gpujob", "gpujobs/finalizers", "update"): OWNERS,
    ("gpujob", "gpunodes/finalizers", "update"): OWNERS,
    **{
        ("gpujob-server", "gpujobs", verb): CALLERS
        for verb in ("watch", "create", "patch", "delete")
    },
    ("gpujob-server", "/v1/estimates", "post"): "the controller asks whether the server may",
    ("gpujob-server", "subjectaccessreviews", "create"): CALLERS,
    ("gpujob-server", "tokenreviews", "create"): CALLERS,
}
"""What no end-to-end test has to use, and why it is granted: account, resource, verb."""


def test_every_right_is_used(stage: Stage, heard: Path, request: pytest.FixtureRequest) -> None:
    """In the log of the API server; what is not there has its reason above."""
    if not isinstance(stage.cluster, Node):
        pytest.skip("a cluster made by kind writes no audit log")
    if not is_whole(request):
        pytest.skip("not all end-to-end tests ran and passed: not all rights were used")
    keep_heard(stage, heard)
    used = set(_used(heard))
    granted = set(_granted(stage))
    unused = {one for one in granted if not any(_covers(one, seen) for seen in used)}

    assert {one.account for one in granted} == set(ACCOUNTS)
    assert {one for one in unused if (one.account, one.resource, one.verb) not in UNSEEN} == set()
    known = {(one.account, one.resource, one.verb) for one in granted}
    assert set(UNSEEN) <= known, "what is granted no more needs no reason"


def _granted(stage: Stage) -> Iterator[Right]:
    """What the roles that are bound to our accounts grant."""
    roles = {
        (role["kind"], role["metadata"].get("namespace", ""), role["metadata"]["name"]): role
        for role in (*stage.get("clusterroles", ""), *stage.get("roles", NAMESPACE))
    }
    bindings = (*stage.get("clusterrolebindings", ""), *stage.get("rolebindings", NAMESPACE))
    for binding in bindings:
        namespace = binding["metadata"].get("namespace", "")
        for subject in binding.get("subjects", []):
            if subject.get("namespace") != NAMESPACE or subject["name"] not in ACCOUNTS:
                continue
            kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
            role = roles[kind, namespace if kind == "Role" else "", name]
            for rule in role["rules"]:
                for group, resource, verb, only in itertools.product(
                    rule.get("apiGroups", [""]),
                    rule.get("resources") or rule["nonResourceURLs"],
                    rule["verbs"],
                    rule.get("resourceNames", [""]),
                ):
                    yield Right(subject["name"], namespace, group, resource, verb, only)


def _used(folder: Path) -> Iterator[Right]:
    """What our accounts asked for and were granted."""
    prefix = f"system:serviceaccount:{NAMESPACE}:"
    for path in folder.glob("*.log"):
        for line in path.read_text().splitlines():
            if prefix not in line:
                continue
            event = json.loads(line)
            account = event["user"]["username"].removeprefix(prefix)
            allowed = event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow"
            if account not in ACCOUNTS or not allowed or "objectRef" not in event:
                continue
            at = event["objectRef"]
            part = f"/{at['subresource']}" if at.get("subresource") else ""
            yield Right(
                account=account,
                namespace=at.get("namespace", ""),
                group=at.get("apiGroup", ""),
                resource=at["resource"] + part,
                verb=event["verb"],
                name=at.get("name", ""),
            )


def _covers(granted: Right, seen: Right) -> bool:
    return (
        (granted.account, granted.group, granted.resource, granted.verb)
        == (seen.account, seen.group, seen.resource, seen.verb)
        and granted.namespace in ("", seen.namespace)
        and granted.name in ("", seen.name)
    )
