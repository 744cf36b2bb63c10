"""What the server knows besides the market, and what it does to machines."""

import asyncio
import logging
import math
import secrets
import shlex
import time
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from vastsim.faults import Fault, Faults
from vastsim.machines import Machines, NoProgramError
from vastsim.market import FailedPull, Lease, Market
from vastsim.page import Prices
from vastsim.ports import ports_in
from vastsim.thresholds import Thresholds
from vastsim.tools import meminfo, tools
from vastsim.wire import Endpoint, instance_row

RESULT_APPEARS_SECONDS = 0.3
"""What was requested appears late, so that clients have to ask again (vastsim/FACTS.md, Logs)."""
NO_PROGRAM = (
    "Error response from daemon: failed to create task for container: failed to create shim task: "
    "OCI runtime create failed: runc create failed: unable to start container process: "
    'exec: "PROGRAM": executable file not found in $PATH: unknown'
)
"""What Docker says of a program that an image does not have (vastsim/FACTS.md, Failed pulls)."""

log = logging.getLogger("vastsim")


@dataclass(frozen=True)
class SshKey:
    """A public key of an account, or of one instance."""

    number: int
    text: str
    added_at: float


@dataclass
class State:
    """Everything that the server knows besides the market."""

    market: Market
    machines: Machines
    keys: dict[str, int]
    """The account that each key belongs to."""
    public_host: str
    public_url: str
    speed: float
    search_cap: int
    faults: Faults = field(default_factory=Faults)
    thresholds: Thresholds = field(default_factory=Thresholds)
    prices: Prices = field(default_factory=Prices)
    requests: list[dict[str, Any]] = field(default_factory=list)
    instance_keys: dict[str, int] = field(default_factory=dict)
    """The lease that each machine's own key belongs to."""
    notebook_tokens: dict[int, str] = field(default_factory=dict)
    """By the number of the lease."""
    attached: dict[int, list[SshKey]] = field(default_factory=dict)
    """SSH keys of each instance; those of its account are put in when it is made."""
    account_keys: dict[int, list[SshKey]] = field(default_factory=dict)
    results: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Logs and outputs that were requested, and from when on they are there."""
    began: float = field(default_factory=time.time)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _keys_made: int = 0

    def now(self) -> float:
        """Returns the simulated time."""
        return self.began + (time.time() - self.began) * self.speed

    def endpoint(self, lease: Lease) -> Endpoint | None:
        """Returns the address of a machine, or None if it does not run."""
        ports = self.machines.ports(lease.number)
        if ports is None:
            return None
        return Endpoint(self.public_host, *ports, self.machines.mapped(lease.number))

    def row(self, lease: Lease) -> dict[str, Any]:
        """Returns a machine as a listing shows it, including the secret token of its notebook."""
        token = self.notebook_tokens.setdefault(lease.number, secrets.token_hex(32))
        row = instance_row(lease, self.endpoint(lease), self.now())
        return row | {"jupyter_token": token}

    async def advance(self) -> None:
        """Starts what is due, stops what was outbid or is unpaid, and loses hosts that die."""
        async with self.changing:
            self.market.live(self.now())
            for lease in self.market.due(self.now()):
                try:
                    await self._start(lease)
                except NoProgramError:
                    words = NO_PROGRAM.replace("PROGRAM", _command(lease)[0])
                    failed = FailedPull(words, is_created=True)
                    self.market.change(lease.number, failed_pull=failed)
                except (RuntimeError, OSError) as error:
                    # It stays `loading` and is tried again; the others must not wait for it.
                    log.warning("machine %s does not start: %s", lease.number, error)
            for number in self.machines.ended():
                await self.machines.stop(number)
                self.market.enter(number, "exited", self.now())
            self.market.give_up_pulls(self.now())
            for lease in self.market.dying(self.now()):
                await self.lose(lease.number, for_ever=lease.returns_at is None)
            for lease in self.market.outbids(self.now()):
                await self.outbid(lease.number)
            for lease in (*self.market.resuming(self.now()), *self.market.returning(self.now())):
                self.market.resume(lease.number, self.now())
            for lease in self.market.unpaid(self.now()):
                await self.stop(lease.number)

    async def lose(self, number: int, *, for_ever: bool = True) -> None:
        """Loses the host of a machine, with everything on it unless it comes back."""
        await (self.machines.end(number) if for_ever else self.machines.stop(number))
        self.market.enter(number, "offline", self.now())

    async def stop(self, number: int) -> None:
        """Stops a machine; its files stay."""
        await self.machines.stop(number)
        self.market.enter(number, "stopped", self.now())

    async def restart(self, number: int) -> None:
        """Restarts the container of a running machine in place: only its files stay."""
        async with self.changing:
            lease = self.market.leases[number]
            if lease.state == "running":
                await self.machines.stop(number)
                await self._start(lease)

    async def recycle(self, number: int) -> None:
        """Makes the container of a running machine anew, from its image: its files are lost."""
        async with self.changing:
            if self.market.leases[number].state == "running":
                await self.machines.empty(number)
                self.market.recycle(number, self.now())

    async def outbid(self, number: int) -> None:
        """Stops a machine because somebody else pays more."""
        await self.machines.stop(number)
        self.market.outbid(number, self.now())

    async def end(self, number: int) -> None:
        """Destroys a machine."""
        async with self.changing:
            await self.machines.end(number)
            lease = self.market.enter(number, "destroyed", self.now())
            fault = self.faults.strikes("reappear", image=lease.ask.image)
            if fault is not None:
                seen = self.now() + fault.seconds
                self.market.change(number, reappears=(seen, seen + _lasting(fault)))

    def key_number(self) -> int:
        """Returns the number of the next SSH key."""
        self._keys_made += 1
        return self._keys_made

    def deliver(self, text: str, delay: float | None = None) -> str:
        """Returns the address at which a requested text appears, after `delay` simulated seconds.

        Without one it appears after a while of real time.
        """
        name = secrets.token_hex(16)
        waits = RESULT_APPEARS_SECONDS if delay is None else delay / self.speed
        self.results[name] = (time.monotonic() + waits, text)
        return f"{self.public_url}/storage/results/{name}"

    def machine_key(self, number: int) -> str:
        """Returns a machine's own key, which is made when it is first needed."""
        held = next((key for key, of in self.instance_keys.items() if of == number), None)
        if held is None:
            held = secrets.token_hex(32)
            self.instance_keys[held] = number
        return held

    async def _start(self, lease: Lease) -> None:
        facts = lease.facts
        keys = [key.text for key in self.attached.get(lease.number, [])]

        def strikes(name: str) -> bool:
            return self.faults.strikes(name, image=lease.ask.image) is not None

        if strikes("direct_filtered"):
            self.machines.set_direct(lease.number, "filtered")
        if strikes("proxy_broken"):
            await self.machines.set_proxy(lease.number, "broken")

        await self.machines.start(
            lease.number,
            image_name=lease.ask.image,
            is_root=lease.ask.user == "root",
            environment={
                **{name: value for name, value in lease.ask.env.items() if name[:1] != "-"},
                "CONTAINER_ID": str(lease.number),
                "CONTAINER_API_KEY": self.machine_key(lease.number),
                "VAST_CONTAINERLABEL": f"C.{lease.number}",
                "SSH_PUBLIC_KEY": "\n".join(keys),
                "GPU_COUNT": str(facts.num_gpus),
                "PUBLIC_IPADDR": self.public_host,
                "DATA_DIRECTORY": "/workspace",
            },
            command=None if lease.ask.is_reached_by_ssh else _command(lease),
            ports=ports_in(lease.ask.env),
            onstart=lease.ask.onstart,
            authorized_keys=keys,
            tools=tools(
                facts,
                is_mislabelled=strikes("mislabelled"),
                is_broken=strikes("broken_gpu"),
                is_slow=strikes("slow_disk"),
            ),
            meminfo=meminfo(facts),
            traffic=traffic_bytes(lease),
            shows_other_key=strikes("other_key"),
        )
        self.market.enter(lease.number, "running", self.now())
        fault = self.faults.strikes("host_dies", image=lease.ask.image)
        if fault is not None:
            self.market.change(lease.number, dies_at=self.now() + fault.seconds)
        fault = self.faults.strikes("host_away", image=lease.ask.image)
        if fault is not None:
            at = self.now() + fault.seconds
            self.market.change(lease.number, dies_at=at, returns_at=at + _lasting(fault))
        if lease.ask.bid_usd_per_hour is None:
            fault = self.faults.strikes("price_increase", image=lease.ask.image)
            if fault is not None:
                usd = lease.gpu_usd_per_hour * Fraction(str(fault.factor))
                self.market.change(lease.number, increase=(self.now() + fault.seconds, usd))
        else:
            fault = self.faults.strikes("outbid", image=lease.ask.image)
            if fault is not None:
                at = self.now() + fault.seconds
                self.market.change(lease.number, outbid_at=at, resumes_at=at + _lasting(fault))


def traffic_bytes(lease: Lease) -> tuple[int, int]:
    """Returns what a machine has downloaded and uploaded."""
    return int(lease.download_gb * 10**9), int(lease.upload_gb * 10**9)


def _command(lease: Lease) -> list[str]:
    """Returns what a container runs in the run type `args`.

    The start script takes the place of the image's entrypoint; the images here have none.
    """
    return [*shlex.split(lease.ask.onstart or ""), *lease.ask.args] or ["/bin/sh"]


def _lasting(fault: Fault) -> float:
    return fault.lasts if fault.lasts >= 0 else math.inf
