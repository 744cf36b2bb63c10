"""When a release leads, and under which identity, by what is stored in its namespace."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.simulation.model import Chance, ModelKube
from tests.simulation.world import SETTINGS, play

from gpujob.controller.identity import find_identity
from gpujob.controller.other_releases import ANNOTATION_SERVED

SYSTEM = SETTINGS.namespace


async def _cluster(**node: Any) -> ModelKube:
    """With the namespaces that a release reads; `node` is the status of a GpuNode."""
    kube = ModelKube(Chance(0, level=0.0))
    for name in ("kube-system", SYSTEM):
        await kube.create("Namespace", "", {"metadata": {"name": name}})
    if node:
        await kube.create("GpuNode", "a", {"metadata": {"name": "train-0"}, "status": node})
    return kube


async def _starts(kube: ModelKube, served: str, given: str = "") -> str | None:
    """Returns the identity that a controller starts with; None if it waits for a person."""
    settings = replace(SETTINGS, job_namespaces=served, identity=given)
    try:
        async with asyncio.timeout(60.0):
            return await find_identity(kube, settings)
    except TimeoutError:
        return None


async def _confirm(kube: ModelKube) -> None:
    stored = await kube.get("ConfigMap", SYSTEM, "gpujob-identity")
    data = {key: value for key, value in stored["data"].items() if key != "jobNamespaces"}
    await kube.replace("ConfigMap", stored | {"data": data})


async def _lease(kube: ModelKube, **annotations: str) -> None:
    meta = {"name": SETTINGS.name, "annotations": annotations}
    await kube.create("Lease", SYSTEM, {"metadata": meta})


def test_an_earlier_version_is_followed_under_its_identity_first() -> None:
    """It served all namespaces. A release that serves some sees none of its machines elsewhere."""

    async def run() -> None:
        kube = await _cluster()
        of_cluster = (await kube.get("Namespace", "", "kube-system"))["metadata"]["uid"]
        await _lease(kube)
        assert await _starts(kube, "a") is None
        assert await _starts(kube, "a", given=of_cluster) is None
        assert await _starts(kube, "") == of_cluster

    play(run)


def test_a_lease_of_a_later_version_says_what_was_served() -> None:
    """The ConfigMap alone was lost, and no machine runs."""

    async def run() -> None:
        kube = await _cluster()
        await _lease(kube, **{ANNOTATION_SERVED: "a"})
        assert await _starts(kube, "a")

    play(run)


def test_an_identity_is_not_changed_while_a_machine_may_run() -> None:
    """Under another one it would count as gone: its job would rent again, and nobody release it."""

    async def run() -> None:
        kube = await _cluster(rent={})
        assert await _starts(kube, "a", given="first") == "first"
        assert await _starts(kube, "a", given="second") is None
        assert await _starts(kube, "a") == "first"
        kube.set_status("GpuNode", "a", "train-0", {"rent": {}, "releasedAt": "now"})
        assert await _starts(kube, "a", given="second") == "second"

    play(run)


def test_each_installation_has_an_identity_of_its_own() -> None:
    """They may have one account with the provider: each would sweep the other's machines."""

    async def run() -> None:
        served = ("a", "a", "")
        found = [await _starts(await _cluster(), one) for one in served]
        assert None not in found
        assert len(set(found)) == len(served)

    play(run)


@pytest.mark.parametrize("before", ["a,b", "", "b"])
def test_a_namespace_is_left_out_only_if_that_is_confirmed(before: str) -> None:
    """The sweep would destroy the machines of its jobs."""

    async def run() -> None:
        kube = await _cluster()
        identity = await _starts(kube, before)
        assert await _starts(kube, "a") is None
        assert await _starts(kube, before) == identity
        await _confirm(kube)
        assert await _starts(kube, "a") == identity
        assert await _starts(kube, "a,b") == identity
        assert await _starts(kube, "a") is None

    play(run)
