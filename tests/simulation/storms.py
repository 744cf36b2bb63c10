"""Storms: some jobs, two replicas, and faults everywhere by chance, until the world heals."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.simulation.model import Chance
from tests.simulation.process import ANSWERS, FAULTS, Broken, Calls, can_strike
from tests.simulation.world import NAMESPACE, REPLICAS, STEP_SECONDS, Verdict, World, play

from gpujob.api.gpunode import GpuNode
from gpujob.controller.cache import WATCHED
from gpujob.core.job.end import is_finished
from gpujob.core.market.listings import Mark
from gpujob.core.node.stage import Stage, stage_of
from vastsim.market import Lease

NAMES = ("first", "second", "third")
STORM_SECONDS = (300.0, 600.0, 1200.0)
CALM_SECONDS = 8 * 3600.0
"""Once nothing fails any more, every job must be over within this time."""
STRUCK_SHARE = {"destroy": 0.3, "list_leases": 0.1}
"""How often one of the faults of `lives` strikes a call by this name; all others at 0.01."""
RENT_STRUCK = 0.4
"""How probably one strikes a rent request."""
FAVOURED, FAVOUR = ("backups", "fuses", "interruptions"), 10
"""What needs more than one thing to happen; each schedule favours one of them, by its seed, so that
none hangs on luck."""
STRIKING = tuple(fault for fault in FAULTS if fault != "account swapped")
"""What was asked for by the token of another account is unknown until that token is back, which may
be never: only `lives` play that."""
STAYS = frozenset({"CeilingExceeded", "ConfidenceTooLow", "MachinesDistrusted"})
"""Refused for what earlier attempts have cost or met, a job waits for its user for ever, or until
what was destroyed too late counts less.
"""
FUSE_SECONDS = 900.0
"""The API server may be away until a fuse that is used up within this time has to be guarded."""
LOOKED_FOR_SECONDS = 120.0
"""After a restore, nothing else befalls the world for so long; and for so long the API server stays
away after a fuse was used up.
"""
SMALL = {"data": {"maxDownloadGB": 1, "maxUploadGB": 1}, "cost": {"ceiling": "0.07"}}
"""With a fuse that is soon used up."""

ABLE_SECONDS = 60.0
"""Within this time somebody who leads ends what is due."""
BLINDING = {name for name in FAULTS if name.startswith(("clock", "date"))}
"""While these last nothing is ended, since nobody knows what time it is."""

SEEDS = range(40)
"""What is played by default."""
KEPT: tuple[int, ...] = (1, 45, 48, 51, 60, 79, 80)
"""Seeds that once showed a fault of the operator's, or in which what is rare happens; played
whatever else is."""

KINDS = frozenset(
    {
        "API server down",
        "crash",
        "deadline raised",
        "deleted unseen",
        "cut off",
        "fuse guarded",
        "fuse raised",
        "ceiling raised",
        "held back by a cap",
        "interrupted again",
        "job deleted",
        "job deleted by force",
        "job made again",
        "job unreadable",
        "listings down",
        "node forgotten",
        "node restored",
        "price changed",
        "bid too low",
        "rent behind the watch",
        "rent delivered late",
        "restarted unseen",
        "search took long",
        "shown late",
        "stopped",
        "suspended",
        "traffic",
        "watch broken off",
    }
)
"""What must truly happen in the storms that are played by default, by its name in `Chance.met`."""


@dataclass
class StruckCalls(Calls):
    """Calls of which chance has some struck by the faults of `lives`."""

    chance: Chance = field(kw_only=True)

    def next(self, name: str) -> str | None:
        """Counts a call and returns the fault that strikes it."""
        fault = super().next(name)
        is_rent, share = name == "send", STRUCK_SHARE.get(name, 0.01)
        struck = self.chance.befalls(RENT_STRUCK) if is_rent else self.chance.strikes(share)
        if fault is not None or not struck:
            return fault
        fate = ANSWERS if is_rent else STRIKING
        fault = str(self.chance.choice(*(one for one in fate if can_strike(one, name))))
        self.strikes = {**self.strikes, len(self.made) - 1: fault}
        self.chance.met[f"call: {fault}"] += 1
        return fault


class StormyWorld(World):
    """A world in which a machine's watchdog alone holds the fuse only while nobody can act."""

    _able_seconds = 0.0
    """For how long somebody has been able to end attempts."""

    async def step(self) -> None:
        """Lets the world go on for a moment, and checks it."""
        await super().step()
        overdue, self.vast.overdue = self.vast.overdue, []
        is_able = not self.kube.is_down and not self.vast.lies
        is_able = is_able and any(one.can_destroy for one in self.replicas)
        self._able_seconds = self._able_seconds + STEP_SECONDS if is_able else 0.0
        if self._able_seconds < ABLE_SECONDS or BLINDING & set(self.calls.strikes.values()):
            return
        for number in overdue:
            mark = Mark.parse(self.market.leases[number].ask.label)
            node = self.kube.by_uid(mark.node_uid) if mark else None
            status = node["status"] if node is not None else {}
            if "rent" in status and not {"end", "stop"} & status.keys():
                raise Broken(f"{number} had to end itself at its money deadline")


class Storm:
    """One schedule: the jobs of a world, and what befalls it."""

    def __init__(self, seed: int) -> None:
        chance = self._chance = Chance(seed)
        self._met = chance.met
        self._favoured = FAVOURED[seed % len(FAVOURED)]
        self._seconds = chance.choice(*STORM_SECONDS) if chance.level else 0.0
        run_seconds = chance.between(10, max(60, chance.choice(60, self._seconds)))
        if self._favoured == "interruptions":
            run_seconds = max(60, self._seconds)
        self._names = NAMES[: chance.choice(1, 2, 3)]
        self.world = StormyWorld(
            chance,
            seed=seed,
            run_seconds=run_seconds,
            exit_codes=(chance.choice(0, 0, 0, 1),),
            calls=StruckCalls(chance=chance),
            boot_cap_seconds=300,
            max_leases=chance.choice(1, 2, 20),
            max_usd_per_hour=chance.choice("0.90", "100"),
        )
        self.world.vast.are_caps_watched = True
        self.world.kube.on_write.append(self._on_write)
        self._moved_at = 0.0
        self._before: dict[str, Any] = {}
        """The last status of each node before its rent marker, by its uid."""

    def _befalls(self, what: str, probability: float) -> bool:
        """Whether something befalls the world that some schedules favour."""
        return self._chance.befalls(probability * (FAVOUR if what == self._favoured else 1))

    async def _apply(self, name: str) -> None:
        spec: dict[str, Any] = {"activeDeadlineSeconds": self._chance.choice(60, 1800, 1800)}
        if self._befalls("interruptions", 0.3):
            spec["market"] = {"type": "Interruptible"}
        if self._befalls("fuses", 0.2):
            spec |= SMALL | {"activeDeadlineSeconds": 60}
        await self.world.apply(name, **spec)

    async def play(self) -> World:
        """Plays the storm, then calm until everything is over; returns the world."""
        world = self.world
        for name in self._names:
            await self._apply(name)
        loop = asyncio.get_running_loop()
        while loop.time() < self._seconds or world.kube.is_down:
            await world.step()
            await self._befall()
        self._heal()
        await world.until(self._is_over, CALM_SECONDS)
        world.check_end()
        await world.end()
        return world

    def _heal(self) -> None:
        world = self.world
        self._chance.healed = True
        world.vast.lies.clear()
        world.weather.interrupted.clear()
        world.weather.lag_seconds.update(dict.fromkeys(WATCHED, 0.0))
        for replica in world.replicas:
            replica.process.resume()
            replica.process.is_cut_off = False
        for body in world.kube.of_kind("GpuJob"):
            self._change(body, suspend=False, gpu=READABLE)

    def _is_over(self) -> bool:
        """Whether nothing is leased, and each job is finished or waits for its user."""
        world = self.world
        return not world.living() and all(
            is_finished(job.status) or world.reason(name) in STAYS
            for name, job in world.jobs().items()
        )

    # --- What befalls the world, in each step -------------------------------------------------

    async def _befall(self) -> None:
        await self._befall_processes()
        self._befall_cluster()
        self._befall_machines()
        await self._befall_jobs()

    def _for_a_while(self, seconds: float, end: Callable[[], Any]) -> None:
        asyncio.get_running_loop().call_later(seconds, end)

    async def _befall_processes(self) -> None:
        chance, world = self._chance, self.world
        if chance.strikes(0.01):
            self._met["crash"] += 1
            await world.restart(chance.choice(*range(REPLICAS)), chance.between(0, 60))
        if chance.strikes(0.02):
            self._met["stopped"] += 1
            chance.choice(*world.replicas).process.stop()
        if chance.strikes(0.01):
            self._met["cut off"] += 1
            chance.choice(*world.replicas).process.is_cut_off = True
        for replica in world.replicas:
            if chance.strikes(0.2):
                replica.process.resume()
            if chance.strikes(0.2):
                replica.process.is_cut_off = False

    def _befall_cluster(self) -> None:
        chance, world = self._chance, self.world
        fuse_in = self._fuse_in()
        is_due = chance.befalls(0.001) if fuse_in is None else self._befalls("fuses", 0.02)
        if is_due and not world.kube.is_down:
            self._met["API server down"] += 1
            world.kube.is_down = True
            # Until it is back nobody can say that a machine which is gone was gone in time.
            world.is_charged_late |= fuse_in is not None
            seconds = 60.0 if fuse_in is None else fuse_in + LOOKED_FOR_SECONDS
            self._for_a_while(seconds, lambda: setattr(world.kube, "is_down", False))
        kind = chance.choice(*WATCHED)
        if chance.befalls(0.05):
            lag = chance.choice(0.0, chance.between(0, 2), chance.between(0, 10))
            world.weather.lag_seconds[kind] = lag
        if chance.befalls(0.005):
            world.weather.interrupted.add(kind)
            seconds = chance.choice(chance.between(0, 10), chance.between(10, 200))
            self._for_a_while(seconds, partial(world.weather.interrupted.discard, kind))
        if chance.befalls(0.002):
            self._met["listings down"] += 1
            world.vast.lies.add("listings refused")
            self._for_a_while(chance.between(20, 400), world.vast.lies.clear)

    def _fuse_in(self) -> float | None:
        """Returns the seconds until the next fuse is used up; None = that takes too long."""
        world = self.world
        fuses = [
            world.market.leases[number].created_at + marker["moneyDeadlineSeconds"]
            for number, marker in world.vast.markers.items()
            if number in world.living()
        ]
        left = min(fuses, default=0.0) - world.vast.now()
        return left if 0 < left < FUSE_SECONDS else None

    def _befall_machines(self) -> None:
        chance, world = self._chance, self.world
        now = world.vast.now()
        if chance.befalls(0.01):
            world.vast.reprice(chance.choice(*world.market.offers))
        own = [world.market.leases[number] for number in world.living()]
        running = [one for one in own if one.state == "running"]
        if not running:
            return
        lease: Lease = chance.choice(*running)
        node = world.kube.by_uid(str(lease.ask.label).split("/")[1])
        if node is None or "run" not in node.get("status", {}):
            return
        if chance.befalls(0.1):
            world.drivers.move(lease, chance.between(0, 20), chance.choice(0.01, 0.01, 1.0))
        if self._befalls("interruptions", 0.02) and lease.ask.bid_usd_per_hour is not None:
            world.market.outbid(lease.number, now)
            back_after = chance.choice(chance.between(5, 30), chance.between(60, 230))
            world.market.change(lease.number, resumes_at=now + back_after)

    async def _befall_jobs(self) -> None:
        chance, world = self._chance, self.world
        name = chance.choice(*self._names)
        body = world.kube.objects.get(("GpuJob", NAMESPACE, name))
        if body is None:
            if chance.befalls(0.02):
                self._met["job made again"] += 1
                await self._apply(name)
            return
        if chance.befalls(0.001):
            self._met["job deleted"] += 1
            world.kube.delete_now("GpuJob", NAMESPACE, name)
        elif chance.befalls(0.0005):
            self._met["job deleted by force"] += 1
            world.kube.vanish("GpuJob", NAMESPACE, name)
        elif chance.befalls(0.001):
            self._met["suspended"] += 1
            self._change(body, suspend=chance.choice(True, False))
        elif chance.befalls(0.004):
            self._met["ceiling raised"] += 1
            self._change(body, cost={"ceiling": "20.00"}, activeDeadlineSeconds=3600)
        elif chance.befalls(0.002):
            # Beyond what the ceiling pays for.
            self._met["deadline raised"] += 1
            self._change(body, activeDeadlineSeconds=7 * 86_400)
        elif chance.befalls(0.002):
            self._met["job unreadable"] += 1
            self._change(body, gpu="one of the big ones")
        elif chance.befalls(0.01):
            self._change(body, gpu=READABLE)
        elif self._befalls("backups", 0.03):
            await self._restore(body)

    def _change(self, body: dict[str, Any], **spec: Any) -> None:
        self.world.kube.change("GpuJob", NAMESPACE, body["metadata"]["name"], **spec)

    # --- Backups ------------------------------------------------------------------------------

    async def _restore(self, job: dict[str, Any]) -> None:
        """The job's present attempt is restored from before its rent, or forgotten altogether.

        No restore is as quick as a new machine takes to be listed, and none brings back a time
        before an attempt whose machine is gone already: nobody could know of that one. Nor could
        they while they do not know what time it is, or cannot read the job.
        """
        world, status = self.world, job.get("status", {})
        node = world.kube.by_uid(status.get("nodeUID", ""))
        leased = world.living(status.get("nodeUID") or "none")
        is_blind = BLINDING & set(world.calls.strikes.values()) or job["spec"]["gpu"] != READABLE
        if node is None or not leased or "end" in node["status"] or is_blind:
            return
        lease, (_, namespace, name) = world.market.leases[leased[0]], _place(node)
        listed = world.vast.now() - lease.created_at > world.settings.limits.list_lag_seconds
        caps = world.vast.markers[lease.number]
        stays = lease.download_gb < caps["maxDownloadGB"] and lease.upload_gb < caps["maxUploadGB"]
        if lease.state != "running" or not listed or not stays:
            return
        for replica in world.replicas:
            # Whoever restores a backup ends the operator first.
            await replica.crash()
        if self._chance.choice(True, False):
            self._met["node restored"] += 1
            world.kube.set_status("GpuNode", namespace, name, self._before[status["nodeUID"]])
        elif not status.get("attempts") and not status.get("strays"):
            self._met["node forgotten"] += 1
            world.vast.forget()
            world.kube.set_status(*_place(job), {})
            world.kube.vanish("GpuNode", namespace, name)
        world.kube.is_down = False
        world.vast.lies.clear()
        for number in range(REPLICAS):
            await world.restart(number)
        # What ends by itself before a listing shows it to those who have forgotten it is known to
        # nobody.
        self._chance.healed = True
        await world.go_on(LOOKED_FOR_SECONDS)
        self._chance.healed = False

    def _on_write(self, kind: str, body: dict[str, Any], gone: bool, before: Any) -> None:
        """Keeps what a backup may hold, and counts what the operator's writes show."""
        del gone
        status = body.get("status") or {}
        was = (before or {}).get("status") or {}
        if kind == "GpuJob":
            reasons = [
                [one["reason"] for one in held.get("conditions", ()) if one["type"] == "Ready"]
                for held in (was, status)
            ]
            self._met["held back by a cap"] += reasons[1] == ["LeaseLimit"] != reasons[0]
        if kind != "GpuNode":
            return
        if stage_of(self.world.kube.read(GpuNode, body).status) in BEFORE_RENT:
            self._before[body["metadata"]["uid"]] = status
        fuse, earlier = status.get("rent"), was.get("rent")
        if fuse and earlier and fuse["fuseUSD"] != earlier["fuseUSD"]:
            self._met["fuse raised"] += 1


READABLE = {"models": ["RTX 4090"]}
BEFORE_RENT = (Stage.AWAITING_KEY, Stage.AWAITING_DRIVER, Stage.READY_TO_RENT)


def _place(body: dict[str, Any]) -> tuple[str, str, str]:
    meta = body["metadata"]
    return body["kind"], meta["namespace"], meta["name"]


def storm(seed: int) -> World:
    """Plays one schedule: a storm, then calm until everything is over; returns the world."""

    async def story() -> World:
        return await Storm(seed).play()

    world: World = play(story)
    return world


def weathered(seed: int) -> Verdict:
    """Plays one schedule and returns what came of it."""
    try:
        world = storm(seed)
    except Exception as error:  # noqa: BLE001 - whatever ends the operator is a finding
        again = f".venv/bin/python -m tests.simulation.storms {seed}"
        return Verdict(problem=f"{type(error).__name__}: {error}", again=again)
    return world.verdict()


def main() -> None:
    """Plays one schedule with the log shown: `SEED`."""
    world = storm(int(sys.argv[1]))
    print(world.summary())
    print(world.verdict())


if __name__ == "__main__":
    main()
