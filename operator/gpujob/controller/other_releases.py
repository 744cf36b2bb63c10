"""Finds out whether another release of the operator leads in this cluster.

Two releases would work on the same jobs. But anybody who may edit a namespace can write a Lease
there that looks like ours. So a lock counts only if somebody renews it, and if its holder is a pod
whose service account may update the status of every GpuNode.
"""

import asyncio

import structlog

from gpujob.adapters.errors import ClusterError, Forbidden
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.meta import LABEL_MANAGED_BY, MANAGER
from gpujob.controller.settings import Settings
from gpujob.core.leader_lock import OtherLock, holders_pod, renewed

LABELS = {LABEL_MANAGED_BY: MANAGER}
"""Labels of the Lease of every release."""
_SELECTOR = ",".join(f"{key}={value}" for key, value in LABELS.items())

log = structlog.get_logger("gpujob.other_releases")


class OtherRelease(Exception):
    """Another release of the operator leads in this cluster."""


class OtherReleases:
    """Reads the Leases of other releases."""

    def __init__(self, kube: KubeClient, settings: Settings) -> None:
        self._kube = kube
        self._namespace, self._name = settings.namespace, settings.name
        self._retry_seconds = settings.limits.lock_retry_seconds

    async def held(self) -> dict[str, OtherLock]:
        """Returns the locks that other releases seem to hold, by `namespace/name`.

        Waits until the API server answers.
        """
        while True:
            try:
                stored = await self._kube.list_all("Lease", _SELECTOR)
            except Forbidden as error:
                # `cluster_check` reports the missing right, and until then nothing is rented.
                log.warning("other_releases_not_checked", problem=str(error))
                return {}
            except ClusterError as error:
                log.warning("waiting_for_api_server", problem=str(error))
                await asyncio.sleep(self._retry_seconds)
                continue
            return {
                f"{meta['namespace']}/{meta['name']}": OtherLock(meta["resourceVersion"], holder)
                for meta, holder in ((one["metadata"], _holder(one)) for one in stored)
                if holder and (meta["namespace"], meta["name"]) != (self._namespace, self._name)
            }

    async def unless_renewed(self, before: dict[str, OtherLock]) -> dict[str, OtherLock]:
        """Reads the locks again; raises OtherRelease if a controller has renewed one since."""
        after = await self.held()
        for name, lock in renewed(before, after):
            if await self._is_controllers(name, lock.holder):
                raise OtherRelease(
                    f"release {name} of the operator leads in this cluster; uninstall one of them"
                )
        return after

    async def _is_controllers(self, name: str, holder: str) -> bool:
        """True if the holder is a pod that may update every GpuNode's status, or if unknown."""
        namespace, _, _ = name.partition("/")
        try:
            pod_name = holders_pod(holder)
            pod = await self._kube.find("Pod", namespace, pod_name) if pod_name else None
            is_one = pod is not None and await self._may_write_ledgers(pod)
        except ClusterError as error:
            log.warning("other_release_unclear", lock=name, problem=str(error))
            return True
        if not is_one:
            words = "its holder is not a pod whose account may update gpunodes/status everywhere"
            log.warning("other_lock_ignored", lock=name, holder=holder[:200], problem=words)
        return is_one

    async def _may_write_ledgers(self, pod: Body) -> bool:
        namespace = pod["metadata"]["namespace"]
        name = pod["spec"].get("serviceAccountName", "default")
        groups = ("serviceaccounts", f"serviceaccounts:{namespace}", "authenticated")
        account: Body = {
            "username": f"system:serviceaccount:{namespace}:{name}",
            "groups": [f"system:{group}" for group in groups],
        }
        return await self._kube.may(
            account, verb="update", resource="gpujob.dev/gpunodes/status", namespace=""
        )


def _holder(stored: Body) -> str:
    return str((stored.get("spec") or {}).get("holderIdentity") or "")
