"""Finds the identity of this installation, and keeps it in a ConfigMap of the release."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from gpujob.adapters.errors import AdapterError, ClusterError
from gpujob.adapters.kube import KubeClient
from gpujob.api.meta import LABEL_MANAGED_BY, MANAGER
from gpujob.controller.other_releases import ANNOTATION_SERVED
from gpujob.controller.settings import Settings
from gpujob.core.identity import (
    Kept,
    identity_before,
    is_changed,
    left_out,
    may_begin,
    own,
    served_all_before,
)
from gpujob.core.rights import identity_name

RETRY_SECONDS = 2.0
KEY_SERVED = "jobNamespaces"
"""Of the ConfigMap: the namespaces that are served, with commas between them; empty: all."""

log = structlog.get_logger("gpujob.identity")


class IdentityLost(AdapterError):
    """The marks on machines of this installation are not known, or would not be any more."""


class NamespacesLeftOut(AdapterError):
    """Namespaces that were served are no longer, and their machines would be destroyed."""


async def find_identity(kube: KubeClient, settings: Settings) -> str:
    """Returns this installation's identity, as soon as the API server has told and stored it.

    While it is lost, or machines would be left behind in namespaces that are no longer served,
    nobody may lead: this waits until an administrator has solved it.
    """
    while True:
        try:
            return await _stored(kube, settings)
        except IdentityLost as error:
            log.error("identity_lost", problem=str(error))
        except NamespacesLeftOut as error:
            log.error("namespaces_left_out", problem=str(error))
        except ClusterError as error:
            log.warning("waiting_for_api_server", problem=str(error))
        await asyncio.sleep(RETRY_SECONDS)


async def _stored(kube: KubeClient, settings: Settings) -> str:
    name, namespace = identity_name(settings.name), settings.namespace
    place = await _uid(kube, namespace)
    stored = await kube.find("ConfigMap", namespace, name)
    data = (stored or {}).get("data") or {}
    kept = Kept(str(data.get("identity", "")), str(data.get("place", "")), _served(data))
    before = own(kept, place=place)
    if left := left_out(before, served=settings.served):
        raise NamespacesLeftOut(_told(left, settings))
    if settings.served and before is None:
        await _check_versions(kube, settings)
    changed = is_changed(before, given=settings.identity)
    if changed and not may_begin(await kube.list_all("GpuNode")):
        raise IdentityLost(
            f"the chart's value `identity` is {settings.identity}, but the identity in use, in "
            f"ConfigMap {settings.namespace}/{name}, is {kept.identity}, and there are GpuNodes "
            "with machines, which would count as gone: take the value back, delete the jobs, and "
            "set it once no GpuNode is left that is not Released. In a copy of another cluster, "
            "leave the value and remove the copied GpuNodes, see LIFECYCLE.md"
        )
    identity = identity_before(given=settings.identity, kept=kept, place=place)
    if identity is None:
        identity = await _first(kube, settings)
    wanted = {"identity": identity, "place": place, KEY_SERVED: settings.job_namespaces}
    if stored is None:
        labels = {LABEL_MANAGED_BY: MANAGER}
        meta = {"name": name, "namespace": namespace, "labels": labels}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": wanted}
        await kube.create("ConfigMap", namespace, body)
    elif data != wanted:
        await kube.replace("ConfigMap", stored | {"data": wanted})
    return identity


def _served(data: Mapping[str, Any]) -> tuple[str, ...] | None:
    told = data.get(KEY_SERVED)
    if told is None:
        return None
    return tuple(str(told).split(",")) if told else ()


def _told(left: Sequence[str], settings: Settings) -> str:
    name, namespace = identity_name(settings.name), settings.namespace
    command = (
        f"kubectl patch configmap {name} -n {namespace} --type=json "
        f'-p \'[{{"op":"remove","path":"/data/{KEY_SERVED}"}}]\''
    )
    if "" in left:
        what = (
            f"served all namespaces until now, and `jobNamespaces` names {settings.job_namespaces}"
        )
        back = "take `jobNamespaces` back"
    else:
        what = f"served {', '.join(left)} until now, and `jobNamespaces` no longer does"
        back = "put them back"
    return (
        f"this release {what}: machines of the jobs that are left out would be destroyed, and the "
        f"jobs never end. So {back}, delete these jobs, and wait until no GpuNode is left there. "
        f"Then change it again, and confirm with: {command}"
    )


async def _check_versions(kube: KubeClient, settings: Settings) -> None:
    """Raises IdentityLost if an earlier version has served the whole cluster, whose machines in
    other namespaces would be nobody's."""
    lease = await kube.find("Lease", settings.namespace, settings.name)
    if served_all_before(lease, annotation=ANNOTATION_SERVED):
        raise IdentityLost(
            f"the Lease {settings.namespace}/{settings.name} is of an earlier version, which "
            "served all namespaces and did not store its identity: upgrade without "
            "`jobNamespaces` first, wait until a controller leads, and set `jobNamespaces` after "
            "that. If no machine of that version is left, you can also stop its controllers and "
            f"run `kubectl delete lease {settings.name} -n {settings.namespace}`"
        )


async def _first(kube: KubeClient, settings: Settings) -> str:
    """Returns the cluster's identity; or a new one, where the cluster is not served as a whole."""
    if not settings.served:
        return await _uid(kube, "kube-system")
    if not may_begin(await kube.list_all("GpuNode")):
        raise IdentityLost(
            f"ConfigMap {settings.namespace}/{identity_name(settings.name)} is gone, or was "
            "restored from a backup, but there are GpuNodes with machines: set the chart's value "
            "`identity` to the first part of these machines' labels at the provider, but only if "
            "no other release has it"
        )
    return str(uuid.uuid4())


async def _uid(kube: KubeClient, namespace: str) -> str:
    return str((await kube.get("Namespace", "", namespace))["metadata"]["uid"])
