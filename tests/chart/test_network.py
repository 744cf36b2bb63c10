"""The NetworkPolicies against the pods as they are made: what is needed passes, all else does not.

They are evaluated here by the words of their API. That a network enforces them was not seen.
"""

from pathlib import Path

import pytest
from annotated_types import MaxLen
from tests.builders import node_observation
from tests.chart.network import Place, may_connect
from tests.chart.rendering import NAMESPACE, PROMETHEUS, VALUE_SETS, Object, made, objects

from gpujob.api.gpujob import GpuJobSpec
from gpujob.core.machine.driver_pod import driver_pod
from gpujob.core.machine.ports import FIRST_LISTENED
from localcluster import configs

(MOST_PORTS,) = (
    one.max_length for one in GpuJobSpec.model_fields["ports"].metadata if isinstance(one, MaxLen)
)
LAST_LISTENED = FIRST_LISTENED + MOST_PORTS - 1
JOBS = "jobs"
"""A namespace that `closed networks` names."""
API_SERVER = Place(address=configs.NODE_ADDRESS)
ELSEWHERE = Place(address="198.51.100.7")
PROVIDER = Place(address="151.101.1.1")
MACHINE = Place(address="93.184.216.34")
METADATA = Place(address="169.254.169.254")
NODE_DNS = Place(address="169.254.20.10")
DNS = Place(address="10.244.0.2", namespace="kube-system", labels={"k8s-app": "kube-dns"})
STRANGER = Place(address="10.244.0.9", namespace="other", labels={"app": "stranger"})
NEIGHBOUR = Place(address="10.244.0.10", namespace=JOBS, labels={"app": "neighbour"})
SCRAPER = Place(
    address="10.244.0.11",
    namespace="monitoring",
    labels=PROMETHEUS["podSelector"]["matchLabels"],
)
Connection = tuple[Place, Place, int] | tuple[Place, Place, int, str]
"""From where, to where, to which port, and by what if not TCP."""
OFFICE = Place(address="192.168.1.20")


def pod(address: str, namespace: str, labels: dict[str, str], spec: Object) -> Place:
    """A pod, with its ports."""
    ports = {
        port["name"]: port["containerPort"]
        for container in spec["containers"]
        for port in container.get("ports", [])
    }
    return Place(address=address, namespace=namespace, labels=labels, ports=ports)


def policies(programs: Path, values: Object) -> list[Object]:
    """The chart's NetworkPolicies; one name may stand in several namespaces."""
    return [one for one in objects(programs, values=values) if one["kind"] == "NetworkPolicy"]


class Pods:
    """The operator's pods, and drivers, by the policies that hold them."""

    def __init__(self, programs: Path, values: Object) -> None:
        self.policies = policies(programs, values)
        deployments = made(programs, "Deployment", values=values)
        controller, server = (
            pod(address, NAMESPACE, template["metadata"]["labels"], template["spec"])
            for address, template in (
                ("10.244.0.3", deployments["gpujob"]["spec"]["template"]),
                ("10.244.0.4", deployments["gpujob-server"]["spec"]["template"]),
            )
        )
        self.controller, self.server = controller, server
        made_by_us = driver_pod(node_observation())
        labels, spec = made_by_us["metadata"]["labels"], made_by_us["spec"]
        self.driver = pod("10.244.0.5", JOBS, labels, spec)
        self.other_driver = pod("10.244.0.6", JOBS, labels, spec)
        self.driver_elsewhere = pod("10.244.0.7", "other", labels, spec)

    def may(self, source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
        """Whether a connection passes."""
        return may_connect(self.policies, source, target, port, protocol)


@pytest.fixture(scope="module")
def closed(programs: Path) -> Pods:
    """As a platform team closes it."""
    return Pods(programs, VALUE_SETS["closed networks"])


@pytest.fixture(scope="module")
def plain(programs: Path) -> Pods:
    """As the chart comes."""
    return Pods(programs, {})


def test_what_the_system_needs_passes(closed: Pods) -> None:
    """Each connection that one part opens to another, on its real port."""
    driver, controller, server = closed.driver, closed.controller, closed.server
    needed: dict[str, Connection] = {
        "drivers report": (driver, controller, 8080),
        "drivers ask for names": (driver, DNS, 53, "UDP"),
        "long answers": (driver, DNS, 53),
        "resolvers on another port": (driver, DNS, 5353, "UDP"),
        "the resolver of a node": (driver, NODE_DNS, 53, "UDP"),
        "drivers log in": (driver, MACHINE, 40022),
        "a workload's first port": (NEIGHBOUR, driver, FIRST_LISTENED),
        "a workload's last port": (NEIGHBOUR, driver, LAST_LISTENED),
        "the controller and the API server": (controller, API_SERVER, 6443),
        "the controller asks for names": (controller, DNS, 53, "UDP"),
        "the controller and the provider": (controller, PROVIDER, 8000),
        "reviews": (API_SERVER, server, 8443),
        "the server and the API server": (server, API_SERVER, 6443),
        "the metrics": (SCRAPER, controller, 8081),
        "the HTTP API": (OFFICE, server, 8444),
        "it asks what a job would cost": (server, controller, 8080),
        "and where that is asked": (server, DNS, 53, "UDP"),
    }

    assert [name for name, one in needed.items() if not closed.may(*one)] == []


def test_all_else_is_denied(closed: Pods) -> None:
    """Whoever breaks into one part does not reach the next one by the network."""
    driver, controller, server = closed.driver, closed.controller, closed.server
    unwanted: dict[str, Connection] = {
        "a stranger to the transport": (STRANGER, controller, 8080),
        "a driver of another release": (closed.driver_elsewhere, controller, 8080),
        "a stranger to the metrics": (STRANGER, controller, 8081),
        "a driver to the metrics": (driver, controller, 8081),
        "a stranger to the webhook": (STRANGER, server, 8443),
        "a stranger to the HTTP API": (STRANGER, server, 8444),
        "a driver to the HTTP API": (driver, server, 8444),
        "the server's probes": (STRANGER, server, 8081),
        "a stranger to a workload": (STRANGER, driver, FIRST_LISTENED),
        "a neighbour to another port": (NEIGHBOUR, driver, LAST_LISTENED + 1),
        "a driver to the API server": (driver, API_SERVER, 6443),
        "a driver to a stranger": (driver, STRANGER, 22),
        "a driver to another pod's high port": (driver, STRANGER, 8080),
        "a driver to another workload": (driver, closed.other_driver, 22),
        "a driver to the web": (driver, MACHINE, 443),
        "a driver to our own network": (driver, Place(address="203.0.113.9"), 40022),
        "a driver to the cloud's metadata": (driver, METADATA, 80),
        "the controller to the cloud's metadata": (controller, METADATA, 80),
        "the controller to the web": (controller, ELSEWHERE, 443),
        "the controller to a driver": (controller, driver, FIRST_LISTENED),
        "the server to the provider": (server, PROVIDER, 8000),
        "the server to the web": (server, ELSEWHERE, 443),
        "the server to the metrics": (server, controller, 8081),
        "the server to a driver": (server, driver, FIRST_LISTENED),
    }

    assert [name for name, one in unwanted.items() if closed.may(*one)] == []


def test_as_the_chart_comes_it_works_and_nobody_else_gets_in(plain: Pods) -> None:
    """Where the API server is, the chart cannot know; drivers are held where they are named."""
    driver, controller, server = plain.driver, plain.controller, plain.server
    needed: dict[str, Connection] = {
        "drivers report, in whatever namespace": (plain.driver_elsewhere, controller, 8080),
        "the controller and the API server": (controller, API_SERVER, 6443),
        "behind its Service": (controller, Place(address="10.96.0.1"), 443),
        "the provider": (controller, PROVIDER, 443),
        "reviews": (API_SERVER, server, 8443),
    }
    unwanted: dict[str, Connection] = {
        "a stranger to the transport": (STRANGER, controller, 8080),
        "a scraper that nobody named": (SCRAPER, controller, 8081),
        "the HTTP API, which is off": (STRANGER, server, 8444),
        "the server to a database": (server, STRANGER, 5432),
        "without the HTTP API, the server asks for names": (server, DNS, 53, "UDP"),
        "and asks the controller": (server, controller, 8080),
    }

    assert [name for name, one in needed.items() if not plain.may(*one)] == []
    assert [name for name, one in unwanted.items() if plain.may(*one)] == []
    assert plain.may(driver, STRANGER, 22), "no namespace is named, so no driver is held"


def test_a_named_driver_reaches_the_internet_and_no_network_beside_the_cluster(
    programs: Path,
) -> None:
    """By what the chart takes for the internet, if it is told nothing."""
    pods = Pods(programs, {"jobNamespaces": [JOBS]})
    outside = ("93.184.216.34", "2606:2800:21f::1")
    beside = ("10.1.2.3", "100.64.0.9", "172.20.0.9", "192.168.7.7", "169.254.169.254", "fd00::9")

    for address in outside:
        assert pods.may(pods.driver, Place(address=address), 40022), address
    for address in beside:
        assert not pods.may(pods.driver, Place(address=address), 40022), address


def test_behind_a_proxy_only_the_proxy_is_reached(programs: Path) -> None:
    """The provider and its storage are behind it; drivers go to the machines as ever."""
    values = VALUE_SETS["a proxy"]
    pods = Pods(programs, {**values, "jobNamespaces": [JOBS]})
    proxy = Place(address="10.9.0.7")

    assert pods.may(pods.controller, proxy, 3128)
    assert pods.may(pods.controller, API_SERVER, 6443)
    assert pods.may(pods.driver, MACHINE, 40022)
    for source, target, port in (
        (pods.controller, proxy, 22),
        (pods.controller, PROVIDER, 3128),
        (pods.server, proxy, 3128),
        (pods.driver, proxy, 3128),
    ):
        assert not pods.may(source, target, port), (source, target, port)


def test_a_namespace_may_open_its_own_workloads_wider(closed: Pods) -> None:
    """Policies add up: what a user declares besides is heard."""
    own = {
        "metadata": {"name": "open", "namespace": JOBS},
        "spec": {
            "podSelector": {
                "matchLabels": {"gpujob.dev/job": closed.driver.labels["gpujob.dev/job"]}
            },
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"namespaceSelector": {}}], "ports": [{"port": FIRST_LISTENED}]}],
        },
    }

    assert may_connect([*closed.policies, own], STRANGER, closed.driver, FIRST_LISTENED)
    assert not may_connect([*closed.policies, own], STRANGER, closed.driver, FIRST_LISTENED + 1)


def test_the_demo_works_on_a_network_that_enforces_them(programs: Path) -> None:
    """Provider and machines are one pod there."""
    pods = Pods(programs, VALUE_SETS["the demo"])
    simulator = Place(
        address="10.244.0.20",
        namespace="vastsim",
        labels={"app.kubernetes.io/name": "vastsim"},
    )
    driver = Place(
        address=pods.driver.address,
        namespace="demo",
        labels=pods.driver.labels,
        ports=pods.driver.ports,
    )

    needed: dict[str, Connection] = {
        "the provider": (pods.controller, simulator, 8000),
        "a machine": (driver, simulator, 33_333),
        "the transport": (driver, pods.controller, 8080),
        "names": (driver, DNS, 5353, "UDP"),
        "the HTTP API": (simulator, pods.server, 8444),
    }

    assert [name for name, one in needed.items() if not pods.may(*one)] == []
    assert not pods.may(simulator, pods.controller, 8080)
