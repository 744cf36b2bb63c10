"""A machine has two addresses, and the driver works by whichever of them leads to it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from tests.contract.test_driver import (
    COUNT,
    EXIT,
    LINES,
    Cable,
    Controller,
    Driver,
    controller,
    is_finished,
    machine,
    run,
    until,
)
from tests.contract.test_machines import Machine

__all__ = ["controller", "machine"]

WHOLE = "".join(f"line {number}\n" for number in range(1, LINES + 1))


def told(machine: Machine, ports: list[int], *command: str) -> dict[str, Any]:
    """An assignment to run a command on the machine, which is at these ports."""
    answer = run(machine, ports[0], *command)
    answer["machine"]["others"] = [{"host": "127.0.0.1", "port": port} for port in ports[1:]]
    return answer


class Stranger(asyncssh.SSHServer):
    """Somebody else, who notes each key that he is offered."""

    def __init__(self, offered: list[str]) -> None:
        self._offered = offered

    def begin_auth(self, username: str) -> bool:
        self._offered.append(username)
        return True

    def public_key_auth_supported(self) -> bool:
        return True


@asynccontextmanager
async def stranger() -> AsyncIterator[tuple[int, list[str]]]:
    """An SSH server with another host key: its port, and the logins that were tried."""
    offered: list[str] = []
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(
        lambda: Stranger(offered), "127.0.0.1", 0, server_host_keys=[key]
    )
    async with server:
        yield server.get_port(), offered


async def finished(held: Controller, driver: Driver) -> None:
    """Waits for the outcome, and for the driver's end."""
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await driver.ended()


@pytest.mark.parametrize(
    ("door", "state"),
    [("direct", "refused"), ("direct", "filtered"), ("proxy", "refused"), ("proxy", "broken")],
)
async def test_a_machine_is_reached_by_the_address_that_works(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path, door: str, state: str
) -> None:
    """Both are listed, and either is enough; a dead one costs seconds."""
    held, url = controller
    machine.ask("POST", f"machines/{machine.number}/{door}", {"state": state})
    direct, proxy = (port for _, port in machine.addresses)
    ports = [direct, proxy] if door == "direct" else [proxy, direct]
    held.answer = told(machine, ports, "echo", "done")
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await finished(held, driver)

    assert direct != proxy
    assert driver.out == b"done\n"
    assert f"not by 127.0.0.1:{ports[0]}" in driver.err


async def test_an_address_that_dies_is_left_for_the_other_one(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """In the middle of the work, to and fro: no byte is lost or doubled."""
    held, url = controller
    direct, proxy = (port for _, port in machine.addresses)

    async def put(door: str, state: str) -> None:
        body = {"state": state}
        await asyncio.to_thread(machine.ask, "POST", f"machines/{machine.number}/{door}", body)

    held.answer = told(machine, [direct, proxy], "sh", "-c", COUNT)
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: driver.out.count(b"\n") > 400)
    await put("direct", "refused")
    await until(lambda: f"connected to 127.0.0.1:{proxy}" in driver.err)
    await put("direct", "open")
    await put("proxy", "broken")
    await until(lambda: driver.err.count(f"connected to 127.0.0.1:{direct}") > 1)
    await finished(held, driver)

    assert driver.out.decode() == WHOLE


async def test_an_address_that_leads_to_somebody_else_is_not_used(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """He gets neither key nor variable, and the work is done by the other address."""
    held, url = controller
    async with stranger() as (port, offered):
        held.answer = told(machine, [port, machine.port], "echo", "done")
        driver = Driver(tmp_path, url, machine.key, WORKLOAD_SECRET="12345678")
        await driver.start()
        await finished(held, driver)

    assert (driver.out, offered) == (b"done\n", [])


@pytest.mark.parametrize("other", ["another stranger", "nobody"])
async def test_a_machine_that_only_others_answer_for_is_given_up(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path, other: str
) -> None:
    """Nobody shows the key that was pinned: at once, or in several rounds if an address is mute."""
    held, url = controller
    async with stranger() as (port, offered), stranger() as (another, _):
        machine.ask("POST", f"machines/{machine.number}/direct", {"state": "refused"})
        second = machine.port if other == "nobody" else another
        held.answer = told(machine, [port, second], "echo", "done")
        driver = Driver(tmp_path, url, machine.key)
        await driver.start()
        await until(lambda: held.reports and held.reports[-1].fault)
        last = held.reports[-1]
        held.answer = EXIT
        await driver.ended()

    assert (last.fault, offered, driver.out) == ("HostKeyChanged", [], b"")
    rounds = driver.err.count(f"not by 127.0.0.1:{port}")
    assert rounds == (3 if other == "nobody" else 1)


@pytest.mark.parametrize("is_connected", [True, False])
async def test_new_addresses_start_nothing_over(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path, is_connected: bool
) -> None:
    """A driver that is connected stays so; one that is not goes to the new address."""
    held, url = controller
    old, new = Cable(machine.port), Cable(machine.port)
    once = "echo ran >> $HOME/runs; echo up; while [ ! -e $HOME/end ]; do sleep 0.1; done"
    work = ("sh", "-c", f"{once}; cat $HOME/runs")
    async with await old.lay() as server, await new.lay():
        held.answer = told(machine, [old.port], *work)
        driver = Driver(tmp_path, url, machine.key)
        await driver.start()
        await until(lambda: driver.out == b"up\n")
        opened = old.opened
        if not is_connected:
            server.close()
            old.cut()
            await until(lambda: "no connection" in driver.err)
        held.answer = told(machine, [new.port], *work)
        await _heard_twice(held)
        if not is_connected:
            await until(lambda: new.opened)
        async with machine.connected() as connection:
            await connection.run("touch $HOME/end")
        await finished(held, driver)
        old.cut()
        new.cut()

    assert driver.out == b"up\nran\n"
    assert (old.opened, new.opened) == (opened, 0 if is_connected else 1)


async def _heard_twice(held: Controller) -> None:
    """Waits until the driver must have taken the present answer."""
    count = len(held.reports)
    heard: Callable[[], bool] = lambda: len(held.reports) >= count + 2  # noqa: E731
    await until(heard)
