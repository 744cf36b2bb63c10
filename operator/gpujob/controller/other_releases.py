"""Finds out whether another release of the operator leads in this cluster.

Two releases would work on the same jobs. But anybody who may edit a namespace can write a Lease
there that looks like ours. So a lock counts only if somebody renews it, and if its holder is a pod
whose service account may update the status of GpuNodes where this release serves jobs; or, if it
says that its release has our identity, where that one serves jobs.
"""

import asyncio
from collections.abc import Iterable

import structlog

from gpujob.adapters.errors import ClusterError, Forbidden
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.meta import LABEL_MANAGED_BY, MANAGER
from gpujob.controller.settings import Settings
from gpujob.core.leader_lock import OtherLock, contested_namespaces, holders_pod, renewed

LABELS = {LABEL_MANAGED_BY: MANAGER}
"""Labels of the Lease of every release."""
ANNOTATION_SERVED = "gpujob.dev/job-namespaces"
"""Of a Lease: the namespaces that its release serves; absent = all."""
ANNOTATION_IDENTITY = "gpujob.dev/identity"
"""Of a Lease: the first part of the marks on its release's machines."""
SERVED_MAX = 100
"""Of somebody else's Lease no more are asked about."""
_SELECTOR = ",".join(f"{key}={value}" for key, value in LABELS.items())

log = structlog.get_logger("gpujob.other_releases")


class OtherRelease(Exception):
    """Another release of the operator leads in this cluster."""


class OtherReleases:
    """Reads the Leases of other releases."""

    def __init__(self, kube: KubeClient, settings: Settings) -> None:
        self._kube = kube
        self._namespace, self._name = settings.namespace, settings.name
        self._served, self._installation = settings.served, settings.identity
        self._may_look = settings.cluster_rights
        self._retry_seconds = settings.limits.lock_retry_seconds

    async def held(self) -> dict[str, OtherLock]:
        """Returns the locks that other releases seem to hold, by `namespace/name`.

        Waits until the API server answers. Without the right to look for them there are none.
        """
        while self._may_look:
            try:
                stored = await self._kube.everywhere("Lease", _SELECTOR)
            except Forbidden as error:
                # `cluster_check` reports the missing right, and until then nothing is rented.
                log.warning("other_releases_not_checked", problem=str(error))
                return {}
            except ClusterError as error:
                log.warning("waiting_for_api_server", problem=str(error))
                await asyncio.sleep(self._retry_seconds)
                continue
            return {
                f"{meta['namespace']}/{meta['name']}": OtherLock(
                    meta["resourceVersion"], holder, _serves(meta), _identity(meta)
                )
                for meta, holder in ((one["metadata"], _holder(one)) for one in stored)
                if holder and (meta["namespace"], meta["name"]) != (self._namespace, self._name)
            }
        return {}

    async def unless_renewed(self, before: dict[str, OtherLock]) -> dict[str, OtherLock]:
        """Reads the locks again; raises OtherRelease if a controller has renewed one since."""
        after = await self.held()
        for name, lock in renewed(before, after):
            if await self._is_controllers(name, lock):
                raise OtherRelease(_problem(name, lock, self._installation))
        return after

    async def _is_controllers(self, name: str, lock: OtherLock) -> bool:
        """True if the holder is a pod that may update GpuNodes' status where this release serves
        jobs, or if that is not known.
        """
        namespace, _, _ = name.partition("/")
        holder = lock.holder
        shared = contested_namespaces(self._served, lock, installation=self._installation)
        try:
            pod_name = holders_pod(holder)
            pod = await self._kube.find("Pod", namespace, pod_name) if pod_name else None
            is_one = pod is not None and await self._may_write_ledgers(pod, shared)
        except ClusterError as error:
            log.warning("other_release_unclear", lock=name, problem=str(error))
            return True
        if not is_one:
            words = "its holder is not a pod whose account may update gpunodes/status here"
            log.warning("other_lock_ignored", lock=name, holder=holder[:200], problem=words)
        return is_one

    async def _may_write_ledgers(self, pod: Body, namespaces: Iterable[str]) -> bool:
        namespace = pod["metadata"]["namespace"]
        name = pod["spec"].get("serviceAccountName", "default")
        groups = ("serviceaccounts", f"serviceaccounts:{namespace}", "authenticated")
        account: Body = {
            "username": f"system:serviceaccount:{namespace}:{name}",
            "groups": [f"system:{group}" for group in groups],
        }
        for one in namespaces:
            if await self._kube.may(
                account, verb="update", resource="gpujob.dev/gpunodes/status", namespace=one
            ):
                return True
        return False


def _serves(meta: Body) -> tuple[str, ...]:
    """Returns the namespaces that a release says it serves; empty = all."""
    told = (meta.get("annotations") or {}).get(ANNOTATION_SERVED)
    return tuple(str(told).split(",")[:SERVED_MAX]) if told else ()


def _identity(meta: Body) -> str:
    return str((meta.get("annotations") or {}).get(ANNOTATION_IDENTITY) or "")


def _problem(name: str, lock: OtherLock, installation: str) -> str:
    if lock.installation == installation:
        return (
            f"release {name} of the operator leads in this cluster with the same identity, "
            f"{installation}, so each would destroy the machines of the other; uninstall one of "
            "them, or give it another identity once none of its machines is left (see the chart's "
            "README, Some namespaces only)"
        )
    return (
        f"release {name} of the operator leads in this cluster; uninstall one of them, or let them "
        "serve different namespaces (jobNamespaces)"
    )


def _holder(stored: Body) -> str:
    return str((stored.get("spec") or {}).get("holderIdentity") or "")
