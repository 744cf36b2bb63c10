"""Where the transport Service leads: to the leader, by an EndpointSlice of each address family."""

import asyncio
import json
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.integration.parts import Kubectl, Object

from gpujob.adapters.kube import KubeClient
from gpujob.controller.address import publish_address
from gpujob.controller.settings import Settings
from localcluster.control_plane import ControlPlane

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "gpujob"},
    "spec": {"ports": [{"name": "transport", "port": 8080}]},
}


def publish(namespace: str, addresses: str) -> None:
    """Does what a leader does whose pod has these addresses."""
    settings = Settings(
        vast_api_key=SecretStr("x"),
        driver_image="x",
        transport_url="https://x",
        namespace=namespace,
        pod_name="gpujob-0",
        pod_ips=addresses,
    )

    async def run() -> None:
        kube = await KubeClient.connect("gpujob-controller")
        try:
            await publish_address(kube, settings)
        finally:
            await kube.close()

    asyncio.run(run())


def led_to(kubectl: Kubectl, namespace: str) -> dict[str, list[str]]:
    """Returns the addresses that the Service leads to, by their type."""
    selector = ("-l", "kubernetes.io/service-name=gpujob", "-o", "json")
    found: list[Object] = json.loads(kubectl("get", "endpointslices", "-n", namespace, *selector))[
        "items"
    ]
    return {
        one["addressType"]: [
            address for endpoint in one["endpoints"] or [] for address in endpoint["addresses"]
        ]
        for one in found
    }


def test_the_service_leads_to_the_leader_in_each_family(
    kubectl: Kubectl, plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later leader may have others, for example after the cluster was made a dual-stack one."""
    place = "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(place, str(Path(plane.kubeconfig)))
    kubectl("apply", "-n", namespace, "-f", "-", text=json.dumps(SERVICE))

    publish(namespace, "192.0.2.1")
    assert led_to(kubectl, namespace) == {"IPv4": ["192.0.2.1"]}
    publish(namespace, "192.0.2.2,2001:db8::2")
    assert led_to(kubectl, namespace) == {"IPv4": ["192.0.2.2"], "IPv6": ["2001:db8::2"]}
    publish(namespace, "2001:db8::3")
    assert led_to(kubectl, namespace) == {"IPv4": [], "IPv6": ["2001:db8::3"]}
    versions = "jsonpath={.items[*].metadata.resourceVersion}"
    before = kubectl("get", "endpointslices", "-n", namespace, "-o", versions)
    publish(namespace, "2001:db8::3")
    assert kubectl("get", "endpointslices", "-n", namespace, "-o", versions) == before
