"""Ports of a workload: the Service in a real API server, and what the driver carries."""

import json
import urllib.request

import pytest
from tests.integration.conftest import World
from tests.integration.parts import Object, eventually

from gpujob.core.machine.ports import FIRST_LISTENED
from localcluster.control_plane import free_port

SERVICE = "gpujob-serves"


def service(world: World) -> Object:
    """The job's Service; empty if there is none."""
    return world.kubectl.get("service", SERVICE, world.namespace) or {}


@pytest.mark.shared_world
def test_a_port_of_the_workload_is_reached_by_its_service(world: World) -> None:
    """From before the machine is rented until the job goes; taken away by hand it is made again."""
    port = free_port()
    command = ["python3", "-m", "http.server", "-b", "127.0.0.1", str(port)]
    world.apply_job("serves", command=command, ports=[{"name": "http", "port": port}])
    job = world.await_reason("serves", "Running")
    made = service(world)

    assert job["status"]["serviceName"] == SERVICE
    assert [owner["uid"] for owner in made["metadata"]["ownerReferences"]] == [
        job["metadata"]["uid"]
    ]
    (offered,) = made["spec"]["ports"]
    assert (offered["port"], offered["targetPort"]) == (port, "http")
    (pod,) = world.kubectl.items(
        *("pods", "-n", world.namespace),
        *("-l", ",".join(f"{key}={value}" for key, value in made["spec"]["selector"].items())),
    )
    (listened,) = pod["spec"]["containers"][0]["ports"]
    assert (listened["name"], listened["containerPort"]) == ("http", FIRST_LISTENED)

    def answer() -> int | None:
        try:
            url = f"http://127.0.0.1:{FIRST_LISTENED}/"
            with urllib.request.urlopen(url, timeout=5) as response:
                return int(response.status)
        except OSError:
            return None

    assert eventually("the workload answers", answer) == 200
    world.kubectl("delete", "service", SERVICE, "-n", world.namespace)
    eventually("it is made again", lambda: service(world))
    world.kubectl("delete", "gpujob", "serves", "-n", world.namespace, "--timeout=240s")
    eventually("it goes with its job", lambda: not service(world))


@pytest.mark.shared_world
def test_a_service_of_somebody_else_is_left_alone(world: World) -> None:
    """Nothing is rented, and the job says what to do; then it goes on."""
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": world.namespace},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    }
    world.kubectl.apply(theirs)
    world.apply_job("serves", ports=[{"name": "http", "port": 8080}])
    world.await_reason("serves", "ServiceNotCreated")

    assert "delete it" in world.condition("serves", "Ready")["message"]
    assert service(world)["spec"]["selector"] == {"app": "theirs"}
    assert world.simulator.rents() == 0
    world.kubectl("delete", "service", SERVICE, "-n", world.namespace)
    world.await_reason("serves", "Complete")


@pytest.mark.shared_world
def test_a_quota_for_services_costs_nothing(world: World) -> None:
    """The API server's own words are in the condition."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": world.namespace},
        "spec": {"hard": {"services": "0"}},
    }
    world.kubectl.apply(quota)

    def counted() -> bool:
        found = world.kubectl.get("resourcequota", "none", world.namespace) or {}
        return "services" in found.get("status", {}).get("used", {})

    eventually("the quota is counted", counted)
    world.apply_job("serves", ports=[{"name": "http", "port": 8080}])
    world.await_reason("serves", "ClusterRefused")

    assert "exceeded quota" in world.condition("serves", "Ready")["message"]
    assert world.simulator.rents() == 0
    patch = json.dumps({"spec": {"hard": {"services": "1"}}})
    world.kubectl(
        *("patch", "resourcequota", "none", "-n", world.namespace, "--type=merge", "-p", patch)
    )
    world.await_reason("serves", "Complete")
