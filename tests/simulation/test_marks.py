"""A machine is known by its mark: a number alone destroys nothing."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from tests.simulation.model import ACCOUNT, HOST_KEY, Chance
from tests.simulation.process import START
from tests.simulation.test_ledger import DEAR
from tests.simulation.world import CLUSTER, NAMESPACE, World, play

from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import FINALIZER
from gpujob.core.node.stage import stage_of

KEY = ("GpuNode", NAMESPACE, "train-0-1")


async def restore(world: World, number: int, **status: object) -> None:
    """Stores a node of another cluster, with its status, as a restored backup does."""
    body = {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuNode",
        "metadata": {"name": "train-0-1", "finalizers": [FINALIZER]},
        "spec": {
            "jobRef": {"name": "train", "uid": "job"},
            "attempt": 1,
            "reservedUSD": "5.000000",
        },
    }
    await world.kube.create("GpuNode", NAMESPACE, body)
    began = START.isoformat()
    rent = {
        "requestedAt": began,
        "notAfter": began,
        "accountID": ACCOUNT,
        "offerID": 1,
        "machineID": 1,
        "gpu": "1x RTX 4090",
        "gpuUSDPerHour": "0.4",
        "diskUSDPerHour": "0.1",
        "downloadUSDPerGB": "0",
        "uploadUSDPerGB": "0",
        "trafficReserveUSD": "0",
        "estimateUSD": "1",
        "confidence": "0.960",
        "fuseUSD": "5",
        "moneyDeadlineSeconds": 3600,
        "nonce": "ab",
    }
    held = {
        "sshPublicKey": "ssh-ed25519 AAAA",
        "driver": {"podName": "train-0-1-driver", "podUID": "pod", "readyAt": began},
        "rent": rent,
        "lease": {"instanceID": number, "usdPerHour": "0.5", "recordedAt": began},
        "machine": {"host": "h", "port": 22, "hostKey": HOST_KEY},
    }
    world.kube.set_status(*KEY, {**held, **status})


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({}, id="under way"),
        pytest.param(
            {"end": {"at": START.isoformat(), "reason": "Completed", "message": ""}}, id="ended"
        ),
    ],
)
def test_a_node_of_another_cluster_destroys_nothing_there(status: dict[str, object]) -> None:
    """It was restored with the number of a machine that runs for the cluster it comes from."""

    async def life() -> None:
        world = World(Chance(0, level=0.0))
        theirs = min(world.vast.foreign)
        assert world.market.leases[theirs].label == "other/node/job"
        await restore(world, theirs, **status)

        # It has no job here, so it goes once it is released.
        await world.until(lambda: KEY not in world.kube.objects, 900)
        await world.go_on(120)
        world.check_end()
        await world.end()

    play(life)


@pytest.mark.parametrize("at", ["Booting", "Running"])
def test_a_machine_that_a_request_got_besides_is_destroyed_and_charged(at: str) -> None:
    """Long before the attempt is over; and the attempt goes on with the first one."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=900.0)
        await world.apply("train", cost={"ceiling": "20.00"})
        await world.until(lambda: world.reason("train") == at, 600)
        (first,) = world.living()
        twin = world.rent_twin()
        world.market.change(first, due_at=world.vast.now() + (60 if at == "Booting" else 0))
        await world.until(lambda: twin not in world.living(), 45)
        assert world.reason("train") == at
        await world.until(world.is_over, 3600)

        (attempt,) = world.jobs()["train"].status.attempts
        assert attempt.reason == "Completed"
        world.check_end()
        await world.end()

    play(life)


@pytest.mark.parametrize("stage", ["AwaitingKey", "AwaitingDriver", "ReadyToRent"])
def test_a_machine_from_before_a_restore_is_not_rented_again(stage: str) -> None:
    """The cluster forgets the rent request, and its leaders die; what was rented is paid for."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=300.0)
        before: list[dict[str, Any]] = []

        def keep(kind: str, body: dict[str, Any], gone: bool, earlier: Any) -> None:
            if kind == "GpuNode" and not gone and not before:
                # What is stored with the marker could have been stored without it.
                status = {
                    name: value for name, value in body.get("status", {}).items() if name != "rent"
                }
                if stage == "AwaitingDriver" and "driver" in status:
                    driver = status["driver"].items()
                    status["driver"] = {key: value for key, value in driver if key != "readyAt"}
                node = world.kube.read(GpuNode, body | {"status": status})
                if stage_of(node.status) == stage:
                    before.append(status)

        world.kube.on_write.append(keep)
        await world.apply("train", cost={"ceiling": "20.00"})
        await world.until(lambda: world.reason("train") == "Running", 600)
        (first,) = world.living()
        await world.go_on(60)
        world.kube.set_status(*KEY, before[0])
        for number in range(len(world.replicas)):
            await world.restart(number)
        await world.until(lambda: first not in world.living(), 300)
        await world.until(world.is_over, 3600)

        forgotten, last = world.jobs()["train"].status.attempts
        assert (forgotten.reason, last.reason) == ("RentForgotten", "Completed")
        world.check_end()
        await world.end()

    play(life)


def test_a_machine_whose_node_a_restore_has_forgotten_is_charged_first() -> None:
    """The backup is older than the attempt: the job begins anew once the machine is gone."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=1500.0)
        await world.apply("train", cost={"ceiling": "20.00"})
        await world.until(lambda: world.reason("train") == "Running", 600)
        (first,) = world.living()
        await world.go_on(1200)
        world.vast.forget()
        world.kube.set_status("GpuJob", NAMESPACE, "train", {})
        world.kube.vanish(*KEY)
        for number in range(len(world.replicas)):
            await world.restart(number)
        while first in world.living():
            assert world.living() == [first], "nothing is rented before"
            await world.step()
        await world.until(world.is_over, 3600)

        world.check_end()
        job = world.jobs()["train"]
        assert [one.reason for one in job.status.attempts] == ["Completed"]
        assert [one.instance_id for one in job.status.strays] == [first]
        await world.end()

    play(life)


@pytest.mark.parametrize("crashes", [False, True])
def test_a_machine_that_is_found_after_the_end_of_its_job_is_charged_to_it(crashes: bool) -> None:
    """With all that it moved; the job stays complete, and its status says what is owed."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0, offers=DEAR)
        await world.apply("train", cost={"ceiling": "20.00"})
        await world.until(world.is_over, 3600)
        await world.go_on(300)
        job = world.jobs()["train"]
        assert job.status.closed, "the watch does not show it any more"
        before = Decimal(job.status.cost.spent_usd)
        asks = (one.ask for one in world.market.leases.values())
        ask = next(one for one in asks if job.metadata.uid in (one.label or ""))
        lost = replace(ask, label=(mark := f"{CLUSTER}/lost/{job.metadata.uid}"))
        lost = replace(lost, env={**ask.env, "GPUJOB_MARK": mark})
        offer = next(n for n, one in world.market.offers.items() if one.gpu_name == "RTX 4090")
        lease = world.market.rent(offer, lost, world.vast.now(), boot_seconds=5.0)
        told = []
        while lease.number in world.living():
            moved = Fraction(world.vast.now() - lease.created_at) / 20
            world.market.count(lease.number, moved, moved / 10, world.vast.now())
            await world.step()
            owed = {one.type: one for one in world.jobs()["train"].status.conditions}["Released"]
            told.append(owed.status)
            if crashes and told == ["False"]:
                for number in range(len(world.replicas)):
                    await world.restart(number)
        await world.go_on(300)

        status = world.jobs()["train"].status
        assert [(one.instance_id, bool(one.gone_at)) for one in status.strays] == [
            (lease.number, True)
        ]
        assert Decimal(status.cost.final_usd or "") == Decimal(status.cost.spent_usd) > before
        assert "False" in told
        assert [one["regarding"]["uid"] for one in world.kube.events_of("OrphanDestroyed")] == [
            job.metadata.uid
        ]
        shown = {one.type: one.status for one in status.conditions}
        assert (shown["Complete"], shown["Failed"], shown["Released"]) == ("True", "False", "True")
        world.check_end()
        await world.end()

    play(life)
