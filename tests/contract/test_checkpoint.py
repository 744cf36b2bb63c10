"""A checkpoint is replaced as a whole or not at all, whoever dies at which moment."""

import asyncio
import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.contract.shells import ShellMachine

from gpujob.adapters.errors import MachineError
from gpujob.api.data import Copy
from gpujob.driver import checkpoint as module
from gpujob.driver import files, pulling
from gpujob.driver.checkpoint import Checkpoint
from gpujob.driver.files import Allowance
from gpujob.driver.listing import Entry, local_entries
from gpujob.driver.places import Place

PLENTY = 10**12
SETTLED = 1000
"""Seconds that the machine's clock goes ahead of the times of its files."""


class Case:
    """A checkpoint folder on a machine, and the one on the claim."""

    def __init__(self, folder: Path, *, ahead: int = SETTLED, interval: float = 3.0) -> None:
        tools = folder / "tools"
        tools.mkdir()
        (tools / "date").write_text(f"#!/bin/sh\necho $(($(/bin/date +%s) + {ahead}))\n")
        (tools / "date").chmod(0o755)
        self.machine = ShellMachine(folder / "machine", tools=f"{tools}:/usr/bin:/bin")
        self.there = self.machine.home / "ck"
        self.there.mkdir()
        self.claim = folder / "claim"
        self.claim.mkdir()
        self._interval = interval
        self.allowance = Allowance(PLENTY, "data.maxUploadGB")
        self._moment = 10**9

    def driver(self, job: str = "job") -> Checkpoint:
        """Another driver's."""
        return Checkpoint(Copy(folder=str(self.claim), path="ck"), job, self._interval)

    def write(self, **files: str) -> None:
        """Writes files on the machine, each time at another second."""
        self._moment += 1
        for name, text in files.items():
            (self.there / name).write_text(text)
            os.utime(self.there / name, (self._moment, self._moment))

    def held(self) -> dict[str, str]:
        """Returns the files that a person finds on the claim."""
        return {
            os.fsdecode(entry.name): (self.claim / os.fsdecode(entry.name)).read_text()
            for entry in local_entries(self.claim)
            if entry.kind.value == "f"
        }

    async def take(self, driver: Checkpoint) -> str:
        """Copies the next one."""
        async with self.machine.connected() as connection:
            return await driver.take(connection, self.allowance)


async def test_the_next_one_replaces_the_last_one(tmp_path: Path) -> None:
    """With what it removed; folders that it emptied go as well."""
    case = Case(tmp_path)
    driver = case.driver()
    (case.there / "step-1").mkdir()
    (case.there / "step-1/weights").write_text("one")
    case.write(state="1")
    assert await case.take(driver) == ""
    first = case.held()
    (case.there / "step-2").mkdir()
    (case.there / "step-2/weights").write_text("two")
    (case.there / "step-1/weights").unlink()
    (case.there / "step-1").rmdir()
    case.write(state="2")
    assert await case.take(driver) == ""

    assert first == {"state": "1", "step-1/weights": "one"}
    assert case.held() == {"state": "2", "step-2/weights": "two"}
    assert sorted(path.name for path in case.claim.iterdir()) == [".gpujob", "state", "step-2"]


async def test_a_file_that_is_being_written_replaces_nothing(tmp_path: Path) -> None:
    """It may be torn when the machine dies; what is whole beside it is taken."""
    case = Case(tmp_path, interval=2.0)
    driver = case.driver()
    case.write(model="the good one", other="1")
    assert await case.take(driver) == ""
    writer = await asyncio.create_subprocess_exec(
        *("sh", "-c", "exec 3>model; printf half >&3; exec sleep 1000"), cwd=case.there
    )
    try:
        case.write(other="2")
        while (case.there / "model").read_text() != "half":
            await asyncio.sleep(0.01)
        words = await case.take(driver)
    finally:
        writer.kill()
        await writer.wait()

    assert words == "not copied: model: it is always open for writing"
    assert case.held() == {"model": "the good one", "other": "2"}
    assert await case.take(driver) == ""
    assert case.held() == {"model": "half", "other": "2"}


async def test_what_changed_a_moment_ago_is_waited_for(tmp_path: Path) -> None:
    """A writer that closes its file between two parts holds nothing open."""
    case = Case(tmp_path, ahead=0, interval=30.0)
    case.write(model="whole")
    began = time.time()
    assert await case.take(case.driver()) == ""

    assert time.time() - began >= 8, "10 s, less what times in whole seconds hide"


def cut_after_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the machine sends one file more, and no other."""
    left = 1

    async def sums(*args: Any) -> dict[bytes, str]:
        nonlocal left
        left -= 1
        if left < 0:
            raise MachineError("cut")
        return await files.remote_sums(*args)

    monkeypatch.setattr(pulling, "BUNDLE_FILES", 1)
    monkeypatch.setattr(pulling, "remote_sums", sums)


async def test_a_machine_that_dies_half_way_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next driver of the job goes on with what was copied."""
    case = Case(tmp_path)
    case.write(a="1", b="1")
    assert await case.take(case.driver()) == ""
    case.write(a="2", b="2", c="2")
    cut_after_one_file(monkeypatch)
    with pytest.raises(MachineError):
        await case.take(case.driver())
    assert case.held() == {"a": "1", "b": "1"}
    monkeypatch.undo()
    assert await case.take(case.driver()) == ""
    assert case.held() == {"a": "2", "b": "2", "c": "2"}


@pytest.mark.parametrize("moved", range(4))
async def test_a_driver_that_dies_while_it_moves_files_is_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """Once the next one is whole, it is the one, whatever was moved already."""
    case = Case(tmp_path)
    case.write(a="1", b="1", gone="1")
    assert await case.take(case.driver()) == ""
    case.write(a="2", b="2", c="2")
    (case.there / "gone").unlink()
    left = moved

    def dies(*args: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError
        move(*args)

    move = module._move
    monkeypatch.setattr(module, "_move", dies)
    if moved < 3:
        with pytest.raises(MemoryError):
            await case.take(case.driver())
    else:
        await case.take(case.driver())
    monkeypatch.undo()
    case.driver().recover()
    assert case.held() == {"a": "2", "b": "2", "c": "2"}
    # All of it is known as written by us.
    for path in case.there.iterdir():
        path.unlink()
    case.write(last="3")
    assert await case.take(case.driver()) == ""
    assert case.held() == {"last": "3"}


async def test_what_a_full_claim_did_not_let_be_moved_is_moved_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mixture of two checkpoints would be none."""
    case = Case(tmp_path)
    driver = case.driver()
    case.write(a="1", b="1")
    assert await case.take(driver) == ""
    case.write(a="2", b="2")
    move = module._move

    def refuses_b(source: Place, place: Place, entry: Entry) -> None:
        if entry.name == b"b":
            raise OSError(errno.ENOSPC, "No space left on device")
        move(source, place, entry)

    monkeypatch.setattr(module, "_move", refuses_b)
    assert await case.take(driver) == "not copied: the checkpoint: No space left on device"
    monkeypatch.undo()
    case.driver().recover()

    assert case.held() == {"a": "2", "b": "2"}


async def test_a_whole_one_that_was_not_moved_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that dies while it copies the one after it must not leave some files of each."""
    case = Case(tmp_path)
    driver = case.driver()
    case.write(a="1", b="1")
    assert await case.take(driver) == ""
    case.write(a="2", b="2")
    # Nothing can be written in its place.
    in_the_way = case.claim / ".gpujob/job/files.new"
    in_the_way.mkdir()
    assert await case.take(driver) == "not copied: the checkpoint: Is a directory"
    case.write(a="3", b="3")
    monkeypatch.setattr(files, "AT_ONCE", 1)
    cut_after_one_file(monkeypatch)
    with suppress(MachineError):
        await case.take(driver)
    in_the_way.rmdir()
    case.driver().recover()

    assert case.held() == {"a": "2", "b": "2"}


async def test_only_what_the_job_has_written_is_removed(tmp_path: Path) -> None:
    """A host that lists one file of junk costs the job its checkpoint, and nobody else anything."""
    case = Case(tmp_path)
    (case.claim / "of the user").write_text("mine")
    (case.claim / "also there").write_text("mine")
    other = case.driver("another-job")
    case.write(others="1")
    assert await case.take(other) == ""
    (case.there / "others").unlink()
    case.write(model="1", taken_over="1")
    (case.there / "also there").write_text("of the machine")
    driver = case.driver()
    assert await case.take(driver) == ""
    # Somebody has put another one in its place meanwhile.
    (case.claim / "taken_over").write_text("by a person")
    for path in case.there.iterdir():
        path.unlink()
    case.write(junk="1")
    assert await case.take(driver) == ""

    assert case.held() == {
        "of the user": "mine",
        "others": "1",
        "taken_over": "by a person",
        "junk": "1",
    }


async def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    """The last one stays."""
    case = Case(tmp_path)
    case.write(model="1")
    assert await case.take(case.driver()) == ""
    (case.there / "model").unlink()
    assert await case.take(case.driver()) == ""

    assert case.held() == {"model": "1"}


async def test_more_than_is_allowed_is_no_checkpoint(tmp_path: Path) -> None:
    """Half of one would be torn."""
    case = Case(tmp_path)
    case.write(model="1", state="1")
    assert await case.take(case.driver()) == ""
    case.write(model="2" * 1000, state="2")
    case.allowance = Allowance(500, "data.maxUploadGB")
    words = await case.take(case.driver())

    assert words == "not copied: model: data.maxUploadGB does not allow 1000 more bytes"
    assert case.held() == {"model": "1", "state": "1"}


async def test_after_an_interruption_the_last_whole_one_is_sent(tmp_path: Path) -> None:
    """What the killed workload has left on the machine may be torn."""
    case = Case(tmp_path)
    case.write(model="whole", state="1")
    driver = case.driver()
    assert await case.take(driver) == ""
    case.write(model="torn", later="torn")
    async with case.machine.connected() as connection:
        assert await driver.send(connection, case.allowance, is_first_run=False) == ()

    assert {path.name: path.read_text() for path in case.there.iterdir()} == {
        "model": "whole",
        "state": "1",
    }


async def test_without_a_whole_one_the_machine_keeps_what_it_has(tmp_path: Path) -> None:
    """The image may have brought it."""
    case = Case(tmp_path)
    case.write(pretrained="weights")
    async with case.machine.connected() as connection:
        assert await case.driver().send(connection, case.allowance, is_first_run=False) == ()

    assert (case.there / "pretrained").read_text() == "weights"


@pytest.mark.parametrize("later", [0, 1000])
@pytest.mark.parametrize("killed", [None, -1, 0, 1, 5, "nobody knows"])
async def test_what_a_killed_workload_was_writing_is_not_taken(
    tmp_path: Path, killed: int | str | None, later: int
) -> None:
    """Unless nothing had changed for a while when it was killed, however long ago that is."""
    case = Case(tmp_path, ahead=later)
    driver = case.driver()
    case.write(model="maybe torn")
    changed = int((case.there / "model").stat().st_ctime)
    killed_at = changed + killed if isinstance(killed, int) else None if killed is None else 0
    (case.claim / "model").write_text("the last whole one")
    async with case.machine.connected() as connection:
        words = await driver.take_last(connection, case.allowance, killed_at=killed_at)

    if killed in (None, 5):
        assert (words, case.held()) == ("", {"model": "maybe torn"})
    else:
        assert "the workload was killed while it was written" in words
        assert case.held() == {"model": "the last whole one"}


async def test_no_name_of_a_machine_reaches_our_own_files(tmp_path: Path) -> None:
    """They say what may be removed."""
    case = Case(tmp_path)
    case.write(model="1")
    (case.claim / "mine").write_text("mine")
    (case.there / ".gpujob/job").mkdir(parents=True)
    (case.there / ".gpujob/job/files").write_bytes(b"f 4 0 mine\0")
    (case.there / "find").write_text("junk")
    for _ in range(2):
        assert await case.take(case.driver()) == ""

    assert b"mine" not in (case.claim / ".gpujob/job/files").read_bytes()
    assert case.held()["mine"] == "mine"


async def test_a_claim_that_keeps_no_times_gets_only_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each checkpoint would be paid for in full, until the allowance is used up."""

    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    case = Case(tmp_path)
    driver = case.driver()
    case.write(a="1" * 1000, b="1" * 1000)
    with monkeypatch.context() as patched:
        patched.setattr(os, "utime", refuses)
        assert await case.take(driver) == ""
        before = case.allowance.left
        assert await case.take(driver) == ""
        assert case.allowance.left == before
    case.write(b="2" * 1000)
    (case.claim / "a").write_text("somebody's")
    with monkeypatch.context() as patched:
        patched.setattr(os, "utime", refuses)
        assert await case.take(driver) == ""

    assert case.held() == {"a": "1" * 1000, "b": "2" * 1000}
