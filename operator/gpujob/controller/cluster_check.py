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
from gpujob.core.rights import CLUSTER_WIDE, missing, own_rights, webhook_rights

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
    everywhere, all_told = await kube.own_rules(ELSEWHERE)
    here, all_here_told = await kube.own_rules(settings.namespace)
    if all_told and all_here_told:
        needed = (*CLUSTER_WIDE, *webhook_rights(settings.webhook))
        own = own_rights(settings.name, webhook=bool(settings.webhook))
        lacking = missing(needed, everywhere) + missing(own, here)
        words = (
            f"the service account may not {', '.join(lacking[:5])}"
            f"{' and more' if len(lacking) > 5 else ''}; reinstall the chart"
        )
        readiness.say(Reason.RIGHTS_MISSING, words if lacking else None)
    kinds = await kube.served_resources(API_VERSION)
    absent = [
        f"the API server does not serve {name}"
        for name in ("gpujobs", "gpunodes")
        if name not in kinds
    ]
    try:
        await kube.get("Service", settings.namespace, settings.name)
    except ObjectGone:
        absent.append(f"Service {settings.namespace}/{settings.name} does not exist")
    words = f"{'; '.join(absent)}; reinstall the chart"
    readiness.say(Reason.CONFIGURATION_BROKEN, words if absent else None)
