"""Events in the order of time, wherever a person looks."""

import asyncio
import json
from pathlib import Path

import pytest
from tests.integration.corpus import GOOD
from tests.integration.parts import Kubectl
from tests.integration.test_bad_input import manifest

from gpujob.adapters.kube import KubeClient
from gpujob.api.reasons import Reason
from gpujob.controller.events import Events

MANY = 30
"""More than a sort that is not stable leaves in order by chance."""


def test_events_stand_in_the_order_of_time(
    kubectl: Kubectl,
    namespace: str,
    operator_kubeconfig: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`kubectl describe`, `kubectl events`, and `kubectl get events` with and without sorting."""
    place = "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(place, str(operator_kubeconfig))
    kubectl("create", "-f", "-", text=manifest(namespace, GOOD, "train"))
    job = json.loads(kubectl("get", "gpujob", "train", "-n", namespace, "-o", "json"))

    async def tell() -> None:
        kube = await KubeClient.connect("gpujob-controller")
        try:
            events = Events(kube, instance="gpujob-0")
            for number in range(MANY):
                events.tell(job, Reason.RETRYING, f"<{number}>")
            sending = asyncio.create_task(events.run())
            while len(kubectl.items("events", "-n", namespace)) < MANY:
                await asyncio.sleep(0.2)
            sending.cancel()
            await asyncio.wait([sending])
        finally:
            await kube.close()

    asyncio.run(tell())
    wanted = [f"<{number}>" for number in range(MANY)]
    for command in (
        ("describe", "gpujob", "train"),
        ("events", "--for=gpujob/train"),
        ("get", "events"),
        ("get", "events", "--sort-by=.lastTimestamp"),
        ("get", "events", "--sort-by=.metadata.creationTimestamp"),
    ):
        told = kubectl(*command, "-n", namespace)
        shown = [word for word in told.split() if word.startswith("<") and word != "<none>"]
        assert shown == wanted, command
        assert "<unknown>" not in told, command
