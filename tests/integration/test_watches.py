"""The watched kinds come late, or go and come back: the operator hears of jobs all the same.

As under a Deployment, a controller that has ended is started again.
"""

import time
from collections.abc import Iterator

import pytest
from tests.integration.conftest import World, chart, install
from tests.integration.parts import Kubectl, Object, eventually

from localcluster import binaries

HEARD_SECONDS = 20.0
"""The comparison with what is stored, which a deaf operator lives by, comes once a minute."""


@pytest.fixture
def crds(stage: World) -> Iterator[list[Object]]:
    """The chart's kinds, which are there again afterwards."""
    documents = chart(binaries.ensure(binaries.CHART))
    found = [one for one in documents if one["kind"] == "CustomResourceDefinition"]
    yield found
    install(stage.kubectl, found)


def _remove(kubectl: Kubectl, crds: list[Object]) -> None:
    names = [f"crd/{one['metadata']['name']}" for one in crds]
    kubectl("delete", "--wait=true", "--timeout=240s", *names)


def _hears_of_a_job(world: World) -> None:
    ready = world.kept(lambda: world.operator.probe("readyz") == (200, "ok"))
    eventually("it is ready", ready)
    began = time.monotonic()
    world.apply_job("heard", cost={"ceiling": "0.01"})
    told = world.kept(lambda: world.condition("heard", "Ready").get("reason"))
    eventually("the job's first status", told, HEARD_SECONDS)
    print(f"heard after {time.monotonic() - began:.1f} s")


def test_an_operator_that_was_there_before_its_kinds_hears_of_jobs(
    stage: World, crds: list[Object]
) -> None:
    """It says what is missing, and is not ready until it watches."""
    _remove(stage.kubectl, crds)
    stage.operator.start()

    def told() -> bool:
        status, words = stage.operator.probe("readyz")
        return status == 503 and "does not serve gpujobs" in words

    eventually("it says what is missing", told)
    install(stage.kubectl, crds)
    _hears_of_a_job(stage)


def test_kinds_that_go_and_come_back_are_heard_of_again(stage: World, crds: list[Object]) -> None:
    """While they are gone it is not ready."""
    stage.operator.start()
    eventually("it is ready", lambda: stage.operator.probe("readyz") == (200, "ok"))
    _remove(stage.kubectl, crds)
    eventually("it is not ready", stage.kept(lambda: stage.operator.probe("readyz")[0] in (0, 503)))
    install(stage.kubectl, crds)
    _hears_of_a_job(stage)


def test_kinds_that_are_deleted_wait_for_the_machines(stage: World, crds: list[Object]) -> None:
    """Their objects have finalizers, so the machine is given back first; nothing is left."""
    stage.operator.start()
    stage.apply_job("train", command=stage.waits())
    job = stage.await_reason("train", "Running")
    _remove(stage.kubectl, crds)
    ended = [one["state"] for one in stage.simulator.of(job)]
    install(stage.kubectl, crds)
    _hears_of_a_job(stage)

    assert ended == ["destroyed"]


def test_kinds_that_are_gone_by_force_leave_no_machine(stage: World, crds: list[Object]) -> None:
    """While they are gone nothing proves that a machine has no owner; then the sweep finds it."""
    stage.operator.start()
    stage.apply_job("train", command=stage.waits())
    job = stage.await_reason("train", "Running")
    stage.operator.kill()
    names = [f"crd/{one['metadata']['name']}" for one in crds]
    stage.kubectl("delete", "--wait=false", *names)
    no_finalizers = ("--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    for kind in ("gpunode", "gpujob"):
        for one in stage.kubectl.items(f"{kind}s", "-n", stage.namespace):
            name = one["metadata"]["name"]
            stage.kubectl("patch", kind, name, "-n", stage.namespace, *no_finalizers)
    stage.kubectl("wait", "--for=delete", *names, "--timeout=240s")
    stage.operator.launch()
    stage.await_listings(8)
    assert len(stage.simulator.living()) == 1
    install(stage.kubectl, crds)
    gone = stage.kept(lambda: not stage.simulator.living())
    eventually("the sweep has found it", gone)

    assert len(stage.simulator.of(job)) == 1
