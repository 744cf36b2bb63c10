"""Directs the transport Service to the leader, by an EndpointSlice that the leader writes."""

import ipaddress
from typing import Any

from gpujob.adapters.kube import KubeClient
from gpujob.api.meta import MANAGER
from gpujob.controller.settings import Settings


async def publish_address(kube: KubeClient, settings: Settings) -> None:
    """Directs the Service to this replica; raises ClusterError.

    The Service has no selector, so Kubernetes itself writes no EndpointSlice for it.
    """
    service = await kube.get("Service", settings.namespace, settings.name)
    version = ipaddress.ip_address(settings.pod_ip).version
    wanted: dict[str, Any] = {
        "addressType": f"IPv{version}",
        "endpoints": [{"addresses": [settings.pod_ip], "conditions": {"ready": True}}],
        "ports": [{"name": "transport", "port": settings.transport_port, "protocol": "TCP"}],
    }
    metadata = {
        "name": settings.name,
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
    }
    head = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata}
    stored = await kube.find("EndpointSlice", settings.namespace, settings.name)
    if stored is None:
        await kube.create("EndpointSlice", settings.namespace, head | wanted)
    elif any(stored.get(field) != value for field, value in wanted.items()):
        await kube.replace("EndpointSlice", stored | wanted)
