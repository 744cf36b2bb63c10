"""The chart against a real API server: every set of values, its pods, its roles, its token."""

import base64
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.chart.rendering import VALUE_SETS, objects
from tests.integration.conftest import World
from tests.integration.parts import Kubectl, Object, eventually

from localcluster import binaries

FOREIGN = {
    "podmonitors": ("monitoring.coreos.com", "PodMonitor"),
    "servicemonitors": ("monitoring.coreos.com", "ServiceMonitor"),
    "issuers": ("cert-manager.io", "Issuer"),
    "certificates": ("cert-manager.io", "Certificate"),
}
"""Kinds of others: whatever fields they have is not asked here."""


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder with both versions of Helm."""
    return binaries.ensure(binaries.CHART)


@pytest.fixture
def foreign(kubectl: Kubectl) -> Iterator[None]:
    """The kinds of others."""
    kinds = [_any_kind(plural, *group_and_kind) for plural, group_and_kind in FOREIGN.items()]
    kubectl("apply", "-f", "-", text=json.dumps(_list(kinds)))
    names = [f"crd/{one['metadata']['name']}" for one in kinds]
    kubectl("wait", "--for=condition=Established", *names, "--timeout=240s")
    yield
    kubectl("delete", *names)


def _any_kind(plural: str, group: str, kind: str) -> Object:
    version = "v1"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _list(items: list[Object]) -> Object:
    return {"apiVersion": "v1", "kind": "List", "items": items}


def test_the_api_server_takes_the_chart_and_its_pods_by_every_set_of_values(
    kubectl: Kubectl, namespace: str, foreign: None, programs: Path
) -> None:
    """Without a word: no unknown field, nothing deprecated; and the pods pass as restricted ones.

    Nothing is stored but the accounts that the pods need.
    """
    pods: list[Object] = []
    for name, values in VALUE_SETS.items():
        for other in values.get("jobNamespaces", []):
            kubectl.run("create", "namespace", other)
        found = objects(programs, values=values, namespace=namespace)
        if name != "nothing but the Secret":
            # They are always the same.
            found = [one for one in found if one["kind"] != "CustomResourceDefinition"]
        # What is rendered without a namespace belongs to the release's.
        where = ("-n", namespace) if "extraObjects" in values else ()
        options = ("--server-side", "--dry-run=server", "--force-conflicts", *where)
        done = kubectl.run("apply", *options, "-f", "-", text=json.dumps(_list(found)))
        assert (done.returncode, done.stderr) == (0, ""), name
        deployments = [one for one in found if one["kind"] == "Deployment"]
        pods += [
            _pod(one, str(len(pods) + number), namespace) for number, one in enumerate(deployments)
        ]
    assert len(pods) == 2 * len(VALUE_SETS) - 2, "two have no server"
    for account in sorted({one["spec"]["serviceAccountName"] for one in pods}):
        kubectl("create", "serviceaccount", account, "-n", namespace)
    create = ("create", "--dry-run=server", "-f", "-")
    kubectl(*create, text=json.dumps(_list(pods)))
    looser = [{**one, "spec": {**one["spec"], "securityContext": {}}} for one in pods]
    refused = kubectl.run(*create, text=json.dumps(_list(looser)))
    assert refused.stderr.count('violates PodSecurity "restricted') == len(pods)


def _pod(deployment: Object, suffix: str, namespace: str) -> Object:
    template = deployment["spec"]["template"]
    name = f"{deployment['metadata']['name']}-{suffix}"
    metadata = {**template["metadata"], "name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


USERS = ("view", "edit", "admin")


def test_users_get_what_the_cluster_and_the_chart_give_them(
    kubectl: Kubectl, namespace: str, programs: Path
) -> None:
    """Seeing goes with the cluster's own roles; spending only where an administrator says so."""

    def may(user: str, verb: str, resource: str) -> bool:
        plural, _, part = resource.partition("/")
        asked = (verb, f"{plural}.gpujob.dev", f"--subresource={part}", f"--as={user}")
        return kubectl.run("auth", "can-i", *asked, "-n", namespace).returncode == 0

    for role in USERS:
        binding = (role, f"--clusterrole={role}", f"--user={role}", "-n", namespace)
        kubectl("create", "rolebinding", *binding)
    spender = ("--clusterrole=gpujob-system-gpujob-edit", "--user=spender")
    kubectl("create", "rolebinding", "spender", *spender, "-n", namespace)
    for user in USERS:
        for resource in ("gpujobs", "gpunodes", "gpujobprofiles", "gpubudgets"):
            eventually("the roles are aggregated", partial(may, user, "watch", resource))
        assert not may(user, "create", "gpujobs")
    for verb in ("create", "update", "patch", "delete"):
        assert may("spender", verb, "gpujobs")
        assert not may("spender", verb, "gpunodes")
        assert not may("spender", verb, "gpujobprofiles")
        assert not may("spender", verb, "gpubudgets")

    spending = objects(programs, "rbac.aggregateToEdit=true", namespace=namespace)
    name = f"{namespace}-gpujob-edit"
    roles = [one for one in spending if one["metadata"]["name"] == name]
    kubectl("apply", "-f", "-", text=json.dumps(_list(roles)))
    try:
        for user in ("edit", "admin"):
            eventually("it is aggregated", partial(may, user, "create", "gpujobs"))
            for resource in ("gpunodes", "gpujobs/status", "gpujobprofiles", "gpubudgets"):
                assert not may(user, "update", resource)
        assert not may("view", "create", "gpujobs")
    finally:
        kubectl("delete", "clusterrole", name)


@pytest.mark.shared_world
def test_the_scrapers_token_reads_the_metrics_and_nothing_else(
    world: World, programs: Path
) -> None:
    """The one that the chart makes, as Prometheus would present it."""
    kubectl, namespace = world.kubectl, world.namespace
    found = objects(programs, values=VALUE_SETS["Prometheus"], namespace=namespace)
    wanted = [one for one in found if one["metadata"]["name"].endswith("gpujob-metrics")]
    kubectl("apply", "-f", "-", text=json.dumps(_list(wanted)))
    try:
        secret = ("secret", "gpujob-metrics", namespace)
        held = eventually("the token", lambda: (kubectl.get(*secret) or {}).get("data"))
        token = base64.b64decode(held["token"]).decode()
        status, told = eventually("the metrics", lambda: _metrics(world, token))
        account = f"--as=system:serviceaccount:{namespace}:gpujob-metrics"
        rights = kubectl("auth", "can-i", "--list", account, "-n", namespace, "--no-headers")

        assert status == 200
        assert "gpujob_" in told
        resources = {line.split()[0] for line in rights.splitlines() if not line.startswith(" ")}
        assert all("reviews" in one for one in resources), resources
        assert "/metrics" in rights
    finally:
        kubectl("delete", "clusterrole,clusterrolebinding", f"{namespace}-gpujob-metrics")


def _metrics(world: World, token: str) -> tuple[int, str] | None:
    found = world.operator.probe("metrics", token)
    return found if found[0] not in (0, 403, 503) else None
