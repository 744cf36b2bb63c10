"""Checks regularly whether the cluster gives the controller what it needs.

Only what is certain is reported. An authorizer that cannot list all rights, or a question without
an answer, proves nothing.
"""

import asyncio

import structlog

from gpujob.adapters.errors import ClusterError, ObjectGone
from gpujob.adapters.kube import KubeClient
from gpujob.api.meta import API_VERSION
from gpujob.api.reasons import Reason
from gpujob.controller.readiness import Readiness
from gpujob.controller.settings import Settings
from gpujob.core.rights import (
    CLUSTER,
    JOBS,
    OTHERS_PODS,
    PRIORITIES,
    QUEUES,
    Rights,
    missing,
    own_rights,
    read_namespace,
    webhook_rights,
)

ELSEWHERE = "kube-system"
"""A namespace other than the controller's own: rights there come from cluster-wide roles."""

log = structlog.get_logger("gpujob.cluster_check")


async def check_for_ever(kube: KubeClient, settings: Settings, readiness: Readiness) -> None:
    """Reports missing rights, kinds and the missing Service to readiness."""
    while True:
        try:
            await check_once(kube, settings, readiness)
        except ClusterError as error:
            log.warning("cluster_not_checked", problem=str(error))
        await asyncio.sleep(settings.limits.cluster_check_seconds)


async def check_once(kube: KubeClient, settings: Settings, readiness: Readiness) -> None:
    """Makes one check; raises ClusterError."""
    lacking: list[str] = []
    for namespace, needed in _needed(settings).items():
        rules, all_told = await kube.own_rules(namespace)
        if not all_told:
            break
        where = f" in {namespace}" if namespace in settings.served else ""
        lacking += [f"{one}{where}" for one in missing(needed, rules)]
    else:
        words = (
            f"the service account may not {', '.join(lacking[:5])}"
            f"{' and more' if len(lacking) > 5 else ''}; reinstall the chart"
        )
        readiness.say(Reason.RIGHTS_MISSING, words if lacking else None)
    if not settings.cluster_rights:
        # Without them, and without reviews, no driver would be believed.
        await kube.token_keys()
    kinds = await kube.served_resources(API_VERSION)
    absent = [
        f"the API server does not serve {name}"
        for name in ("gpujobs", "gpunodes", "gpubudgets")
        if name not in kinds
    ]
    try:
        await kube.get("Service", settings.namespace, settings.name)
    except ObjectGone:
        absent.append(f"Service {settings.namespace}/{settings.name} does not exist")
    words = f"{'; '.join(absent)}; reinstall the chart"
    readiness.say(Reason.CONFIGURATION_BROKEN, words if absent else None)


def _needed(settings: Settings) -> dict[str, tuple[Rights, ...]]:
    """Returns what is needed, by the namespace in which it is asked for."""
    needed = {
        settings.namespace: own_rights(
            settings.name,
            settings.namespace,
            webhook=bool(settings.webhook),
            everywhere=not settings.served,
        )
    }
    of_jobs = (*JOBS, *(QUEUES if settings.kueue else ()))
    for namespace in settings.served:
        needed[namespace] = of_jobs
    if settings.cluster_rights:
        jobs = (OTHERS_PODS,) if settings.served else (*of_jobs, read_namespace(ELSEWHERE))
        classes = PRIORITIES if settings.kueue else ()
        needed[ELSEWHERE] = (*jobs, *CLUSTER, *classes, *webhook_rights(settings.webhook))
    return needed
