"""Interruptible machines on real parts: taken away, given back, or replaced."""

import pytest
from tests.integration.conftest import World
from tests.integration.parts import eventually

BID = {"type": "Interruptible"}
COUNTED = "echo x >> $HOME/runs; echo run $(cat $HOME/runs | wc -l)"


@pytest.mark.shared_world
def test_a_machine_that_is_taken_away_and_comes_back_goes_on(world: World) -> None:
    """The same machine, with its disk; the workload is started once more, and by one driver."""
    world.apply_job("train", command=world.waits(COUNTED), market=BID)
    eventually("it runs", lambda: "run 1\n" in world.pods.log("train-0-1-driver"))
    (lease,) = world.simulator.living()
    world.simulator.ask("POST", f"machines/{lease['id']}/outbid", {"lasts": -1})
    world.await_reason("train", "Paused")
    assert world.condition("train", "Running")["status"] == "False"
    world.simulator.ask("POST", f"machines/{lease['id']}/resume")
    world.let_go()
    job = world.await_reason("train", "Complete")

    (lease,) = world.simulator.of(job)
    assert lease["is_bid"]
    assert job["status"]["attempt"] == 1
    log = world.pods.log("train-0-1-driver")
    assert (log.count("run 1\n"), log.count("run 2\n")) == (1, 1)
    assert float(lease["total_usd"]) <= float(job["status"]["cost"]["finalUSD"])


def test_a_machine_that_does_not_come_back_is_replaced(stage: World) -> None:
    """After a while another one is rented, and the first one is destroyed before it can return."""
    stage.operator.start(GPUJOB_OUTBID_PATIENCE_SECONDS="3")
    stage.simulator.faults(outbid={"count": 1, "seconds": 1, "lasts": -1})
    stage.apply_job("train", command=["sh", "-c", "sleep 4"], market=BID)
    job = stage.await_reason("train", "Complete")

    first, second = job["status"]["attempts"]
    assert (first["reason"], second["reason"]) == ("Outbid", "Completed")
    assert first["machineID"] != second["machineID"]
    eventually("nothing is left", lambda: stage.simulator.living() == [])


def test_a_bid_is_cheaper_and_is_what_is_paid(stage: World) -> None:
    """Of two jobs only one bids, and its rate is what the provider takes."""
    # In a market in which nothing was rented before, the first one may have any machine.
    world = stage
    world.operator.start()
    world.apply_job("bid", market=BID)
    eventually("the first one has its machine", world.simulator.ledger)
    world.apply_job("demand")
    bid, demand = (world.await_reason(name, "Complete") for name in ("bid", "demand"))
    (on_bid,), (on_demand,) = world.simulator.of(bid), world.simulator.of(demand)

    assert (on_bid["is_bid"], on_demand["is_bid"]) == (True, False)
    rate = float(bid["status"]["attempts"][0]["usdPerHour"])
    assert rate == pytest.approx(float(on_bid["usd_per_hour"]), abs=0.00001)
    assert rate < float(on_demand["usd_per_hour"])
