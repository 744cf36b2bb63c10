"""The workload runs as its image says, behind a real SSH server, whatever the image does to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import asyncssh
import pytest
from pydantic import SecretStr
from tests.contract.test_driver import (
    EXIT,
    Controller,
    Driver,
    controller,
    is_finished,
    run,
    until,
)
from tests.contract.test_machines import Machine
from tests.integration.parts import KEY, Simulator

from gpujob.adapters.clock import SystemClock
from gpujob.adapters.door import Door
from gpujob.adapters.errors import LoginRefused, MachineUnreachable, ProviderUnavailable
from gpujob.adapters.vast import VastClient
from gpujob.core.market.images import PullFailure, missing_server, pull_failure
from gpujob.driver.supervisor import PROGRESS_VARIABLE
from vastsim.images import DEBIAN_PATH, IMAGES, Image

__all__ = ["controller"]

Boot = Callable[[str], Coroutine[Any, Any, Machine]]
NO_SERVER = {f"vastsim/no-{what}" for what in ("sshd", "apt", "network", "shell")}
BREAKS_SESSIONS = {"vastsim/exits", "vastsim/greedy", "vastsim/execs"} | NO_SERVER
PRIVATE = {name for name, image in IMAGES.items() if image.login is not None}
GOOD = ["python:3.11", *sorted(set(IMAGES) - BREAKS_SESSIONS - PRIVATE)]


@pytest.fixture
async def boot(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Boot]:
    """Rents a machine with an image, and waits until it has booted."""
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))

    async def booted(image: str) -> Machine:
        made = Machine(simulator, vast, tmp_path)
        await made.boot(image)
        return made

    yield booted
    await vast.close()


async def ran(
    machine: Machine, controller: tuple[Controller, str], folder: Path, *command: str
) -> Driver:
    """Lets a driver run a command, and returns it once it has ended."""
    held, url = controller
    held.answer = run(machine, machine.port, *command)
    driver = Driver(folder, url, machine.key)
    await driver.start()
    await until(lambda: is_finished(held) or (held.reports and held.reports[-1].fault))
    held.answer = EXIT
    await driver.ended()
    return driver


@pytest.mark.parametrize("image", GOOD)
async def test_a_workload_finds_the_images_environment_and_no_other(
    image: str, boot: Boot, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The image's variables and folder; of the provider's, what is no key of its own.

    What the start-up files of root's shell print is not in its output.
    """
    chosen = IMAGES.get(image, Image())
    machine = await boot(image)
    show = "pwd; cat /proc/self/environ /dev/null"
    driver = await ran(machine, controller, tmp_path, "sh", "-c", show)
    folder, _, rest = driver.out.decode().partition("\n")
    seen = dict(one.split("=", 1) for one in rest.split("\0") if one)

    assert driver.outcome["exitCode"] == 0
    assert folder == chosen.working_dir
    assert {name: seen[name] for name in chosen.environment} == chosen.environment
    assert seen["HOME"] == chosen.environment.get("HOME", chosen.home)
    assert seen["PATH"] == chosen.environment.get("PATH", DEBIAN_PATH)
    assert seen["CONTAINER_ID"] == str(machine.number)
    shells = {"PWD", "SHLVL", "OLDPWD", "_", PROGRESS_VARIABLE}
    providers = {"CONTAINER_ID", "VAST_CONTAINERLABEL", "GPU_COUNT", "PUBLIC_IPADDR", "HOSTNAME"}
    providers |= {"DATA_DIRECTORY", "VAST_TCP_PORT_22"}
    known = {*chosen.environment, "HOME", "PATH", *shells, *providers}
    assert set(seen) <= known


async def test_a_program_on_the_images_path_is_found(
    boot: Boot, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """An SSH session does not have that path."""
    driver = await ran(await boot("vastsim/trainer:1"), controller, tmp_path, "trainer")

    assert driver.out == b"trained with /opt/trainer in /opt/trainer as root\n"


async def test_a_relative_folder_is_below_the_one_in_which_the_command_starts(
    boot: Boot, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The image's, which is not the home of an SSH session; the command's own paths begin there."""
    held, url = controller
    copies = {}
    for name in ("inputs", "outputs"):
        (tmp_path / name).mkdir()
        folder = {"folder": str(tmp_path / name), "path": f"its {name}", "optional": False}
        copies[name] = [folder]
    (tmp_path / "inputs/one").write_text("1\n")
    allowed = {"downloadBytesMax": 10**6, "uploadBytesMax": 10**6}
    machine = await boot("vastsim/trainer:1")
    move = ("mv", "its inputs/one", "its outputs/two")
    held.answer = run(machine, machine.port, *move)
    driver = Driver(tmp_path, url, machine.key, GPUJOB_DATA=json.dumps(copies | allowed))
    await driver.start()
    await until(lambda: is_finished(held) or (held.reports and held.reports[-1].fault))
    held.answer = EXIT
    await driver.ended()

    assert (driver.outcome["exitCode"], driver.outcome["lost"]) == (0, "")
    assert (tmp_path / "outputs/two").read_text() == "1\n"


async def test_the_images_own_python_runs(
    boot: Boot, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Only that one has the package that the job needs."""
    script = "import torch; print(torch.cuda.is_available())"
    machine = await boot("pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime")
    driver = await ran(machine, controller, tmp_path, "python", "-c", script)

    assert driver.out == b"True\n"


async def test_start_up_files_that_end_every_session_are_the_images_fault(
    boot: Boot, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """It is told soon, and what ends them is told, too."""
    await ran(await boot("vastsim/exits"), controller, tmp_path, "true")
    last = controller[0].reports[-1]

    assert (last.fault, last.outcome) == ("ImageUnusable", None)
    assert "start-up files of root's shell end the session" in last.message
    assert last.message.endswith("change the image so that a shell without a terminal starts")


@pytest.mark.parametrize("is_measured", [False, True])
async def test_start_up_files_that_hang(
    boot: Boot, controller: tuple[Controller, str], tmp_path: Path, is_measured: bool
) -> None:
    """It is told within a minute: three sessions in a row, on a machine that answers.

    Where somebody was let in before, the machine may only be slow.
    """
    held, url = controller
    machine = await boot("vastsim/execs")
    answer = run(machine, machine.port, "true")
    held.answer = answer if is_measured else {**answer, "instruction": "Measure", "work": None}
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    async with asyncio.timeout(240):
        # Each lasts 15 s, and to look at all processes of this machine takes long.
        while not (held.reports and held.reports[-1].fault) and _hanging(machine) < 4:
            await asyncio.sleep(0.5)
    last, sessions = held.reports[-1], _hanging(machine)
    held.answer = EXIT
    await driver.ended()

    assert last.fault == (None if is_measured else "ImageUnusable")
    assert sessions == (4 if is_measured else 3)
    assert "the start-up files of root's shell did not end within 15 s" in last.message


def _hanging(machine: Machine) -> int:
    """Returns how many sessions have come to a start-up file that does not end."""
    # The provider's launcher sleeps as long.
    return len(machine.processes("sleep", "1000000")) - 1


@pytest.mark.parametrize("image", sorted(NO_SERVER))
async def test_what_is_told_of_an_image_without_an_ssh_server(
    simulator: Simulator, tmp_path: Path, image: str
) -> None:
    """In its log, or by the provider; where the host has no network, that is nobody's fault."""
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))
    machine = Machine(simulator, vast, tmp_path)
    await machine.rent(image)
    said = ""
    while not said:
        await asyncio.sleep(0.2)
        (lease,) = (await vast.list_leases()).leases or (None,)
        if lease and image == "vastsim/no-shell":
            said = lease.status_message
        elif lease and lease.status == "running":
            log = await vast.read_log(machine.number) or ""
            said = log if "openssh-server" in log else ""
    await vast.close()

    if image == "vastsim/no-shell":
        assert pull_failure(said, image) is PullFailure.PERMANENT
    else:
        assert (missing_server(said) is None) is (image == "vastsim/no-network")


async def test_a_key_that_only_the_provider_puts_there_lets_in(
    simulator: Simulator, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Where the start script cannot write the list of keys; asked again, nothing changes."""
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))
    machine = Machine(simulator, vast, tmp_path)
    await machine.boot("python:3.11", writes_key=False)
    with pytest.raises(LoginRefused):
        async with machine.connected():
            pass
    public = asyncssh.read_private_key(machine.key).export_public_key("openssh").decode()
    for _ in range(2):
        await vast.attach_key(machine.number, public.strip())
    driver = await ran(machine, controller, tmp_path, "echo", "done")
    with pytest.raises(ProviderUnavailable, match="no public key"):
        await vast.attach_key(machine.number, "no key")
    with pytest.raises(HTTPError) as none:
        machine.ask("GET", "/api/v0/ssh/", None)
    none.value.close()
    await vast.close()

    assert driver.out == b"done\n"
    assert none.value.code == 404, "the account has no key"


async def test_a_session_that_breaks_now_and_then_is_nobody_s_fault(
    boot: Boot, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """It is tried again: only what happens to every session is told of the image."""
    machine = await boot("python:3.11")
    breaks = "echo >> /tmp/sessions; [ $(wc -l < /tmp/sessions) -gt 2 ] || exit 3"
    async with machine.connected() as connection:
        await connection.run(f"echo '{breaks}' > ~/.bashrc")
    driver = await ran(machine, controller, tmp_path, "echo", "done")

    assert (driver.out, driver.outcome["exitCode"]) == (b"done\n", 0)


async def test_the_key_is_put_back_when_somebody_rewrites_the_list(
    boot: Boot, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The provider may do so hours later, and so may the workload."""
    machine = await boot("python:3.11")
    remove = "rm -r ~/.ssh; mkdir -m 777 ~/.ssh; echo others > ~/.ssh/authorized_keys; chmod 777 ~"
    driver = await ran(machine, controller, tmp_path, "sh", "-c", remove)

    async def lets_in() -> bool:
        # Until it is the watchdog's turn it refuses; then it hangs up on who comes too often.
        with suppress(LoginRefused, MachineUnreachable):
            async with machine.connected() as connection:
                return await connection.run("cat ~/.ssh/authorized_keys") != b""
        await asyncio.sleep(2)
        return False

    async with asyncio.timeout(240):
        while not await lets_in():
            pass
    assert driver.outcome["exitCode"] == 0
