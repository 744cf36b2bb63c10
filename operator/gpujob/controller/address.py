"""Directs the transport Service to the leader, by EndpointSlices that the leader writes.

There is one for each address family, because the API server does not let a slice change its family:
https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#address-types
"""

from typing import Any

from gpujob.adapters.kube import KubeClient
from gpujob.api.meta import MANAGER
from gpujob.controller.settings import Settings, addresses_in
from gpujob.core.rights import slice_names


async def publish_address(kube: KubeClient, settings: Settings) -> None:
    """Directs the Service to this replica; raises ClusterError.

    The Service has no selector, so Kubernetes itself writes no EndpointSlice for it.
    """
    service = await kube.get("Service", settings.namespace, settings.name)
    addresses = addresses_in(settings.pod_ips)
    for version, name in slice_names(settings.name).items():
        await _publish(kube, settings, service, version, name, addresses.get(version))


async def _publish(
    kube: KubeClient,
    settings: Settings,
    service: dict[str, Any],
    version: int,
    name: str,
    address: str | None,
) -> None:
    """Stores the slice of one family; without an address of that family, one that leads nowhere."""
    here = [{"addresses": [address], "conditions": {"ready": True}}] if address else []
    wanted: dict[str, Any] = {
        "endpoints": here,
        "ports": [{"name": "transport", "port": settings.transport_port, "protocol": "TCP"}],
    }
    stored = await kube.find("EndpointSlice", settings.namespace, name)
    if stored is not None:
        # The API server leaves an empty list out, or says null.
        if any((stored.get(field) or []) != value for field, value in wanted.items()):
            await kube.replace("EndpointSlice", stored | wanted)
        return
    if address is None:
        return
    head = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": f"IPv{version}",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": {
                "kubernetes.io/service-name": settings.name,
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            },
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": settings.name,
                    "uid": service["metadata"]["uid"],
                }
            ],
        },
    }
    await kube.create("EndpointSlice", settings.namespace, head | wanted)
