"""Files that come and go: the real driver, a real machine, folders for claims, and a cut line."""

import hashlib
import json
import os
import random
import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.contract.test_driver import (
    EXIT,
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

from gpujob.adapters.errors import MachineError
from gpujob.api.data import Copy, DataPlan
from gpujob.api.transport import MACHINE_FOLDER, Outcome
from gpujob.driver import claims, pulling
from gpujob.driver.files import Allowance
from gpujob.driver.state import settle

__all__ = ["controller", "machine"]


def digests(folder: Path) -> dict[str, str]:
    """Returns the digest of each file below a folder, by its name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def filled(folder: Path, seed: int = 1) -> Path:
    """Makes a folder with files of all sorts."""
    chance = random.Random(seed)
    for name, size in {
        "empty": 0,
        "one": 1,
        "deep/er/still": 70_000,
        "a name with  spaces": 10,
        "quo'te\"$(x)`y`": 11,
        "-rf": 12,
        "ünïcode": 13,
        "large": 3_000_000,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size))
    (folder / "one").chmod(0o755)
    return folder


class Case:
    """A driver with folders for its claims, and where they are copied to on the machine."""

    def __init__(
        self,
        machine: Machine,
        home: Path,
        folder: Path,
        url: str,
        *,
        needs_outputs: bool = False,
        **more: Any,
    ) -> None:
        self.claims = folder / "claims"
        self.there = home / "work"
        self.seen = machine.seen(self.there)
        """The same folder, as it is reached from here."""
        plan: dict[str, Any] = {
            "downloadBytesMax": 10**9,
            "uploadBytesMax": 10**9,
            "checkpointSeconds": 1,
        }
        for name in ("inputs", "outputs"):
            (self.claims / name).mkdir(parents=True)
            copy = {"folder": str(self.claims / name), "path": str(self.there / name)}
            plan[name] = [copy]
        plan["outputs"][0]["optional"] = not needs_outputs
        (self.claims / "log").mkdir()
        (self.claims / "checkpoint").mkdir()
        plan["logFolder"] = str(self.claims / "log")
        plan["checkpoint"] = {
            "folder": str(self.claims / "checkpoint"),
            "path": str(self.there / "checkpoint"),
        }
        self._variables = {"GPUJOB_DATA": json.dumps(plan | more)}
        self._again = folder / "again", url, machine.key
        self.driver = Driver(folder, url, machine.key, **self._variables)

    def next_driver(self, **variables: str) -> Driver:
        """Returns that of another pod, with the same claims; of the next attempt, by default."""
        folder, url, key = self._again
        folder.mkdir()
        named = {"GPUJOB_NODE_NAME": "train-0-2"}
        return Driver(folder, url, key, **self._variables | named | variables)

    @classmethod
    async def on(cls, machine: Machine, folder: Path, url: str, **more: Any) -> "Case":
        """Returns a case on a machine."""
        async with machine.connected() as connection:
            home = Path((await connection.run("echo $HOME")).decode().strip())
        return cls(machine, home, folder, url, **more)

    def command(self, text: str) -> list[str]:
        """Returns a workload that begins in the folder that is copied."""
        return ["sh", "-c", f"mkdir -p {self.there} && cd {self.there}; {text}"]

    async def outcome_of(self, text: str, machine: Machine, held: Controller) -> Outcome:
        """Runs a workload to its end and returns what its driver tells of it at last."""
        held.answer = run(machine, machine.port, *self.command(text))
        await self.driver.start()
        await until(lambda: is_finished(held))
        held.answer = EXIT
        await self.driver.ended()
        outcome = held.reports[-1].outcome
        assert outcome is not None
        return outcome


async def test_inputs_come_and_outputs_go(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """All files, their bytes and their rights; the outcome comes when all of it is there."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url)
    wanted = digests(filled(case.claims / "inputs"))
    text = "cp -a inputs/. outputs; echo more > outputs/more; exit 3"
    held.answer = run(machine, machine.port, *case.command(text))
    await case.driver.start()
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await case.driver.ended()
    got = digests(case.claims / "outputs")

    assert got.pop("more") == hashlib.sha256(b"more\n").hexdigest()
    assert got == wanted
    assert os.access(case.claims / "outputs/one", os.X_OK)
    outcome = held.reports[-1].outcome
    assert outcome is not None
    assert (outcome.exit_code, outcome.lost) == (3, "")
    ended = [report.ended.exit_code for report in held.reports if report.ended]
    assert set(ended) <= {3}
    assert held.reports[0].copy_idle_seconds is None
    assert held.reports[-1].copy_idle_seconds is not None


async def test_a_cut_line_and_a_killed_driver_lose_no_file(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """What was copied is not copied again, what was begun is gone on with."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url)
    text = (
        "mkdir outputs; for i in 1 2 3; do head -c 40000000 /dev/urandom > outputs/$i; done; "
        "seq 200000"
    )
    cable = Cable(machine.port)
    outputs = case.claims / "outputs"

    def begun() -> int:
        return sum(path.stat().st_size for path in outputs.glob(".*.gpujob-part"))

    async with await cable.lay():
        held.answer = run(machine, cable.port, *case.command(text))
        await case.driver.start()
        await until(lambda: begun() > 5_000_000 or is_finished(held))
        cable.cut()
        await until(lambda: begun() > 20_000_000 or is_finished(held))
        await case.driver.kill()
        left = begun()
        await case.driver.start()
        await until(lambda: is_finished(held))
        held.answer = EXIT
        await case.driver.ended()
        cable.cut()

    assert digests(outputs) == digests(case.seen / "outputs")
    assert len(digests(outputs)) == 3
    assert left > 0
    log = (case.claims / "log/train-0-1.stdout").read_bytes()
    assert log == b"".join(b"%d\n" % number for number in range(1, 200_001))


async def test_a_checkpoint_outlives_its_machine(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """It is copied while the workload runs; the next attempt finds it on its machine."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url)
    write = "mkdir -p checkpoint; echo 7 > checkpoint/step; echo old > checkpoint/old; echo up; "
    text = write + "while [ ! -e go ]; do sleep 0.1; done; rm checkpoint/old; sleep 600"
    held.answer = run(machine, machine.port, *case.command(text))
    await case.driver.start()
    kept = case.claims / "checkpoint"
    await until(lambda: (kept / "old").exists() and (kept / "step").exists())
    part = kept / ".gpujob/job/next/.0123.gpujob-part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"of a version that was never whole")
    (case.seen / "go").touch()
    await until(lambda: not (kept / "old").exists() and not part.exists())
    await case.driver.kill()
    # Another machine: nothing of the first one is there.
    async with machine.connected() as connection:
        await connection.run(f"rm -rf {case.there} {MACHINE_FOLDER}/runs")
    held.answer = run(machine, machine.port, *case.command("cat checkpoint/step"))
    driver = case.next_driver()
    await driver.start()
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await driver.ended()

    assert driver.out == b"7\n"
    assert (case.claims / "log/train-0-2.stdout").read_bytes() == b"7\n"


async def test_a_checkpoint_that_was_torn_while_nobody_looked_is_not_taken(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The line was cut, or the driver away, when the workload was killed, some time ago by now."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url)
    text = (
        "mkdir -p checkpoint; echo good > checkpoint/model; while [ ! -e go ]; do sleep 0.1; done; "
        "printf half > checkpoint/model; touch torn; kill -KILL $$"
    )
    held.answer = run(machine, machine.port, *case.command(text))
    await case.driver.start()
    kept = case.claims / "checkpoint/model"
    await until(kept.exists)
    await case.driver.kill()
    (case.seen / "go").touch()
    await until((case.seen / "torn").exists)
    # Longer than a file that nobody writes to has to be left alone.
    since = (case.seen / "torn").stat().st_ctime
    await until(lambda: time.time() > since + 5)
    await case.driver.start()
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await case.driver.ended()

    outcome = held.reports[-1].outcome
    assert outcome is not None
    assert (outcome.exit_code, kept.read_text()) == (137, "good\n")
    assert "the workload was killed while it was written" in outcome.lost


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"downloadBytesMax": 100}, "inputs and checkpoint have 3070047 bytes"),
        ({"outputs": [{"folder": "/proc/none", "path": "/x"}]}, "none cannot be written"),
    ],
)
async def test_what_can_not_be_copied_is_said_before_anything_is_rented(
    machine: Machine,
    controller: tuple[Controller, str],
    tmp_path: Path,
    change: dict[str, Any],
    words: str,
) -> None:
    """In the driver's first report."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url, **change)
    filled(case.claims / "inputs")
    await case.driver.start()
    await until(lambda: held.reports)
    held.answer = EXIT
    await case.driver.ended()

    assert held.reports[0].data_problem.startswith(words)


NO_FILE = "not copied: {} on the machine holds no file; correct the path, or set optional"


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("mkdir out; echo 7 > out/result", NO_FILE),
        ("mkdir -p outputs/empty", NO_FILE),
        ("exit 3", ""),
        ("mkdir outputs; : > outputs/empty", ""),
    ],
    ids=["another folder", "no file", "it failed", "an empty file"],
)
async def test_a_result_that_is_not_there_is_told(
    text: str, lost: str, machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """A path that was mistyped would lose everything, and the job would be complete."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url, needs_outputs=True)
    outcome = await case.outcome_of(text, machine, held)

    assert outcome.lost == lost.format(case.there / "outputs")


async def test_more_than_is_allowed_is_not_copied(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """What fits is; what does not is named."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url, uploadBytesMax=1_000_000)
    text = "mkdir outputs; head -c 2000000 /dev/zero > outputs/big; echo ok > outputs/small"
    outcome = await case.outcome_of(text, machine, held)

    assert set(digests(case.claims / "outputs")) == {"small"}
    assert outcome.lost == "not copied: big: data.maxUploadGB does not allow 2000000 more bytes"


async def test_a_stranger_s_names_lead_nowhere(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Links are not followed, on either side, and no name leaves the folder."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url)
    outside = tmp_path / "outside"
    outside.mkdir()
    (case.claims / "outputs/link").symlink_to(outside)
    text = "mkdir -p outputs/link; echo evil > outputs/link/file; ln -s /etc/passwd outputs/passwd"
    outcome = await case.outcome_of(text, machine, held)

    assert list(outside.iterdir()) == []
    assert not (case.claims / "outputs/passwd").exists()
    assert outcome.lost == "not copied: link/file: a link leads out of the folder"


async def test_a_log_that_its_claim_does_not_take_is_printed_all_the_same(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """And what is missing is said with the outcome."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url)
    (case.claims / "log/train-0-1.stdout").symlink_to("elsewhere")
    held.answer = run(machine, machine.port, "echo", "hello")
    await case.driver.start()
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await case.driver.ended()
    outcome = held.reports[-1].outcome

    assert case.driver.out == b"hello\n"
    assert outcome is not None
    assert outcome.lost.startswith("there is no log on its claim: Too many levels")


async def test_a_log_on_a_claim_has_the_cap_of_files(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """A stranger's machine fills no claim; what it prints is printed all the same."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url, uploadBytesMax=5)
    text = "echo one; while [ ! -e go ]; do sleep 0.1; done; echo two"
    held.answer = run(machine, machine.port, *case.command(text))
    await case.driver.start()
    await until(lambda: case.driver.out == b"one\n")
    (case.seen / "go").touch()
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await case.driver.ended()
    outcome = held.reports[-1].outcome

    assert case.driver.out == b"one\ntwo\n"
    assert (case.claims / "log/train-0-1.stdout").read_bytes() == b"one\n"
    assert outcome is not None
    assert (
        outcome.lost
        == "the log on its claim ends at byte 4: data.maxUploadGB does not allow 4 more bytes"
    )


async def test_the_log_of_a_job_that_had_the_same_name_stays(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """It is no part of this one's, of which nothing is left out."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url)
    for name in ("train-0-1.stdout", "train-0-1.stdout.1"):
        (case.claims / "log" / name).write_text(f"{name} of another job\n")
    outcome = await case.outcome_of("echo hello", machine, held)

    assert case.driver.out == b"hello\n"
    assert outcome.lost == ""
    kept = {path.name: path.read_text() for path in (case.claims / "log").glob("*.stdout*")}
    assert kept == {
        "train-0-1.stdout": "hello\n",
        "train-0-1.stdout.1": "train-0-1.stdout.1 of another job\n",
        "train-0-1.stdout.2": "train-0-1.stdout of another job\n",
    }


@pytest.mark.parametrize("name", ["inputs", "outputs", "checkpoint"])
async def test_a_folder_that_the_image_does_not_let_be_made_is_told(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path, name: str
) -> None:
    """A link that leads nowhere is in its place, on each host: no host is to blame."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url)
    case.seen.mkdir()
    (case.seen / name).symlink_to("/data/of-another-image")
    held.answer = run(machine, machine.port, "true")
    await case.driver.start()
    await until(lambda: bool(held.reports) and held.reports[-1].fault is not None)
    last = held.reports[-1]
    held.answer = EXIT
    await case.driver.ended()

    assert last.fault == "InputsNotCopied"
    assert f"/{name} cannot be a folder: " in last.message
    assert "File exists" in last.message


async def test_what_a_workload_leaves_running_does_not_spoil_its_output(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """As the log of a helper that nobody has ended."""
    case = await Case.on(machine, tmp_path, controller[1], needs_outputs=True)
    helper = "while :; do echo more >> outputs/log; sleep 0.01; done"
    text = f"echo model > outputs/model; setsid sh -c '{helper}' & sleep 1"
    outcome = await case.outcome_of(text, machine, controller[0])

    assert (outcome.exit_code, outcome.lost) == (0, "")
    assert (case.claims / "outputs/model").read_text() == "model\n"
    assert "more\n" in (case.claims / "outputs/log").read_text()


async def test_what_an_earlier_pod_has_kept_is_not_carried_again(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """It would be paid for; the next pod prints what comes after."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url)
    text = "echo one; while [ ! -e go ]; do sleep 0.1; done; echo two"
    held.answer = run(machine, machine.port, *case.command(text))
    await case.driver.start()
    await until(lambda: case.driver.out == b"one\n")
    await case.driver.kill()
    other = case.next_driver(GPUJOB_NODE_NAME="train-0-1")
    await other.start()
    await until(lambda: "stdout up to byte 4 is in train-0-1.stdout on its claim" in other.err)
    (case.seen / "go").touch()
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await other.ended()

    assert other.out == b"two\n"
    assert (case.claims / "log/train-0-1.stdout").read_bytes() == b"one\ntwo\n"


async def test_what_waits_for_a_slow_claim_does_not_grow(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine sends no more than is taken, however long the file is."""

    def slowly(descriptor: int) -> None:
        time.sleep(0.2)
        settle(descriptor)

    monkeypatch.setattr(pulling, "settle", slowly)
    copy = Copy(folder=str(tmp_path / "claim"), path="/files")
    async with machine.connected() as connection:
        await connection.run("mkdir /files; head -c 100000000 /dev/zero > /files/large")
        tracemalloc.start()
        try:
            allowance = Allowance(10**9, "")
            problems = await pulling.pull(connection, copy, allowance)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert problems == ()
    assert (tmp_path / "claim/large").stat().st_size == 100_000_000
    assert most < 20 << 20, "a fifth of it, whatever the channel's windows"


async def pulled_with_find(
    machine: Machine, folder: Path, tells: str
) -> tuple[tuple[str, ...], int]:
    """Pulls a folder whose files a machine lists so; returns the problems, and bytes of memory."""
    async with machine.connected() as connection:
        find = b"#!/bin/sh\n" + tells.encode()
        await connection.run("cd /usr/local/bin; cat > find; chmod +x find", find)
        await connection.run("mkdir /files")
        tracemalloc.start()
        try:
            copy = Copy(folder=str(folder / "claim"), path="/files")
            problems = await pulling.pull(connection, copy, Allowance(0, "x"))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return problems, most


@pytest.mark.parametrize(
    ("tells", "problem"),
    [
        ("seq -f ./%.0f 10000000 | tr '\\n' '\\0'", "/files holds more than 100000 files"),
        ("yes ./x | tr '\\n' '\\0'", "/files holds more than 100000 files"),
        ("yes | tr -d '\\n'", "the list of the files in /files is longer than 33554432 bytes"),
    ],
)
async def test_files_without_end_are_not_copied(
    machine: Machine, tmp_path: Path, tells: str, problem: str
) -> None:
    """However many a stranger's machine lists, they take no memory."""
    problems, most = await pulled_with_find(machine, tmp_path, tells)

    assert problems == (problem,)
    assert most < 64 << 20


async def test_many_files_are_copied_a_few_at_a_time(machine: Machine, tmp_path: Path) -> None:
    """Those that wait take no memory but for their names."""
    tells = (
        "seq -f ./%.0f 10000 | tr '\\n' '\\0'; printf '\\0'; "
        "yes '81a4 1 1 1 1' | head -n 10000; printf '\\0\\0'"
    )
    problems, most = await pulled_with_find(machine, tmp_path, tells)

    assert len(problems) == 10_000
    assert problems[-1] == "10000: x does not allow 1 more bytes"
    assert most < 8 << 20, "half of what as many tasks take"


def test_too_many_files_of_ours_are_said_before_anything_is_rented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine could not tell which of them it has."""
    monkeypatch.setattr(claims, "FILES_MAX", 10)
    copy = Copy(folder=str(filled(tmp_path / "inputs")), path="/files")
    plan = DataPlan(inputs=(copy,), download_bytes_max=10**9)
    assert claims.data_problem(plan) == ""
    (tmp_path / "inputs/one more").touch()

    assert claims.data_problem(plan) == "inputs holds more than 10 files"


def test_an_input_that_is_somebody_else_s_is_said_before_anything_is_rented() -> None:
    """Its name is no secret, and tells which claim is meant."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "theirs").write_text("x")
        (Path(folder) / "theirs").chmod(0o600)
        plan = DataPlan(job="j", inputs=(Copy(folder=folder, path="/in"),), download_bytes_max=9)
        mine = claims.data_problem(plan)
        os.setegid(65534)
        os.seteuid(65534)
        try:
            theirs = claims.data_problem(plan)
        finally:
            os.seteuid(0)
            os.setegid(0)

    where = Path(folder).name
    assert mine == ""
    assert theirs == f"theirs in {where} cannot be read by user 65534 or group 65534"


async def test_a_list_that_breaks_off_is_none(machine: Machine, tmp_path: Path) -> None:
    """What it does not name any more stays here."""
    kept = tmp_path / "claim/kept"
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(MachineError, match="broke off"):
        await pulled_with_find(machine, tmp_path, "printf './x\\0'; kill $PPID; sleep 1")

    assert kept.exists()


async def test_each_sink_of_a_log_goes_on_where_it_was(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """What one has taken already another may still need."""
    held, url = controller
    case = await Case.on(machine, tmp_path, url)
    text = "echo one; while [ ! -e go ]; do sleep 0.1; done; echo two"
    held.answer = run(machine, machine.port, *case.command(text))
    kept = case.claims / "log/train-0-1.stdout"
    await case.driver.start()
    await until(lambda: case.driver.out == b"one\n" and kept.read_bytes() == b"one\n")
    await case.driver.kill()
    os.truncate(kept, 2)
    await case.driver.start()
    (case.seen / "go").touch()
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await case.driver.ended()

    assert case.driver.out == b"one\ntwo\n"
    assert kept.read_bytes() == b"one\ntwo\n"


async def test_what_was_begun_wrongly_is_copied_anew(machine: Machine, tmp_path: Path) -> None:
    """Only what both sides agree on takes its place."""
    version = hashlib.sha256(b"x 1000 1000000000").hexdigest()[:32]
    claim = tmp_path / "claim"
    claim.mkdir()
    (claim / f".{version}.gpujob-part").write_bytes(b"wrong" * 100)
    copy = Copy(folder=str(claim), path="/files")
    async with machine.connected() as connection:
        fill = "head -c 1000 /dev/urandom > /files/x; touch -d @1000000000 /files/x"
        await connection.run(f"mkdir /files; {fill}")
        allowance = Allowance(10**9, "")
        problems = await pulling.pull(connection, copy, allowance)
        right = await connection.run("cat /files/x")

    assert problems == ()
    assert (claim / "x").read_bytes() == right
    assert not list(claim.glob(".*part"))
