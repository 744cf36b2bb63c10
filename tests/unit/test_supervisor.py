"""The scripts on the machine, run by a real shell."""

import os
import select
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.here import here

from gpujob.api.transport import Cause, Progress
from gpujob.core.market.gpu_models import is_same_model
from gpujob.driver.measure import MEASURE_SCRIPT, parse_measure
from gpujob.driver.state import Printed, next_session
from gpujob.driver.supervisor import (
    ALIVE,
    PROGRESS_VARIABLE,
    Look,
    follow_script,
    kill_script,
    launch_script,
    look_script,
    parse_look,
    run_name,
    stop_script,
    work_text,
)
from localcluster.project_images import shells
from vastsim.offers import read_market
from vastsim.tools import BROKEN, MISLABELLED, OWN_NAMES, meminfo, tools

RUN = "0000-1"


def sh(script: str, home: Path) -> bytes:
    """Runs a script as the machine's shell does."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    return subprocess.run(
        ["/bin/sh"],
        input=here(script, home).encode(),
        env=environment,
        capture_output=True,
        check=True,
    ).stdout


def started(home: Path, pid: int) -> None:
    """Leaves the traces of a supervisor that has started."""
    folder = home / "state/runs" / RUN
    folder.mkdir(parents=True)
    (folder / "began").write_text("100\n")
    (folder / "started").write_text(f"{pid}\n")
    (folder / "stdout").write_text("said\n")


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_supervisor_that_was_killed_and_not_collected_is_gone(
    tmp_path: Path, is_killed: bool
) -> None:
    """In a container whose first process collects nobody it stays as a zombie."""
    with subprocess.Popen(["sleep", "600"]) as supervisor:
        started(tmp_path, supervisor.pid)
        try:
            if is_killed:
                supervisor.send_signal(signal.SIGKILL)
                while _state(supervisor.pid) != "Z":
                    pass
            look = parse_look(sh(look_script(RUN, samples_gpus=False), tmp_path))
            assert look.state == ("vanished" if is_killed else "running")
            if is_killed:
                assert sh(follow_script(RUN, "stdout", 0), tmp_path) == b"said\n"
        finally:
            supervisor.kill()


def test_what_is_said_after_a_silence_is_followed(tmp_path: Path) -> None:
    """What is quiet is looked at less often, but is looked at."""
    with subprocess.Popen(["sleep", "600"]) as supervisor:
        started(tmp_path, supervisor.pid)
        script = here(follow_script(RUN, "stdout", 0), tmp_path)
        command = ["/bin/sh", "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
            try:
                assert follower.stdout is not None, "asked for as a pipe"
                assert follower.stdout.readline() == "said\n"
                # So long is longer than it waits for before it looks less often.
                time.sleep(1.5)
                with (tmp_path / "state/runs" / RUN / "stdout").open("a") as written:
                    written.write("said later\n")
                assert select.select([follower.stdout], [], [], 60)[0] != []
                assert follower.stdout.readline() == "said later\n"
            finally:
                follower.kill()
                supervisor.kill()


def test_a_driver_that_was_replaced_gives_no_orders(tmp_path: Path) -> None:
    """Neither a heartbeat nor a deadline, nor an end."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as supervisor:
        try:
            started(tmp_path, supervisor.pid)
            state = tmp_path / "state"
            assert parse_look(sh(look_script(RUN, samples_gpus=False), tmp_path)).state == "running"
            assert (state / "driver").read_text() == "1\n"
            assert (
                parse_look(sh(look_script(RUN, samples_gpus=False, driver=3), tmp_path)).state
                == "running"
            )
            (state / "heartbeat").unlink()
            for script in (
                look_script(RUN, samples_gpus=True, money_deadline_seconds=9, driver=2),
                stop_script(RUN, 2),
                kill_script(RUN, 2),
            ):
                assert sh(script, tmp_path) == b"replaced\n"
            assert supervisor.poll() is None
            assert not (state / "heartbeat").exists()
            assert not (state / "money").exists()
            # What is spoilt there must not shut everybody out.
            (state / "driver").write_text("many\n")
            again = look_script(RUN, samples_gpus=False, driver=2)
            assert parse_look(sh(again, tmp_path)).state == "running"
            assert sh(kill_script(RUN, 2), tmp_path) == b""
            assert supervisor.wait() == -signal.SIGKILL
        finally:
            supervisor.kill()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_each_run_has_a_folder_of_its_own() -> None:
    """The first one is named by the node alone."""
    assert [run_name("0000", number) for number in range(3)] == ["0000", "0000-1", "0000-2"]
    with pytest.raises(ValueError, match="is not a uid"):
        run_name("../x", 0)


def test_a_look_gives_a_heartbeat(tmp_path: Path) -> None:
    """The machine's watchdog reads it."""
    (tmp_path / "state").mkdir()
    assert parse_look(sh(look_script(RUN, samples_gpus=False), tmp_path)) == Look("absent")
    assert (tmp_path / "state/heartbeat").read_text().strip().isdecimal()


def test_what_a_workload_says_of_itself() -> None:
    """Its last whole line counts; what is no progress tells nothing."""
    said = b'running 7\nlog 12 3\nprogress {"percent": 40, "metrics": {"loss": 0.5}} \n'
    look = parse_look(said + b"gpu 37, 2048\ngpu [N/A], 10\n")

    assert look.progress == Progress(percent=40, metrics={"loss": 0.5})
    assert (look.stdout_bytes, look.stderr_bytes) == (12, 3)
    assert look.gpus == ((37, 2048),)
    wrongs = (b'{"percent": 140}', b'{"percent": 4', b"", b'{"percent": NaN}', b"\xff", b"1\rlog x")
    for wrong in wrongs:
        assert parse_look(b"running 7\nprogress " + wrong + b"\n").progress is None


def test_a_look_tells_the_watchdog_its_deadline_and_reads_what_it_holds_to(tmp_path: Path) -> None:
    """What is written at this moment, or is no number, is nothing."""
    started(tmp_path, 1)
    sh(look_script(RUN, samples_gpus=False, money_deadline_seconds=77), tmp_path)
    assert (tmp_path / "state/money").read_text() == "77\n"

    for held, found in (("77\n", 77), ("", None), ("soon\n", None), ("7" * 30, None)):
        (tmp_path / "state/money.held").write_text(held)
        told = sh(look_script(RUN, samples_gpus=False), tmp_path)
        assert parse_look(told).money_deadline_seconds == found
    assert (tmp_path / "state/money").read_text() == "77\n"


@pytest.mark.parametrize(
    "output", [b"", b"dancing", b"running", b"running x", b"exited 0", b"exited 1 2 Sunspots"]
)
def test_an_answer_that_is_not_understood(output: bytes) -> None:
    """It is refused, whatever it is."""
    with pytest.raises(ValueError, match=r"understood|invalid literal|not a valid Cause"):
        parse_look(output)


def launch(home: Path, *command: str, path: Path | None = None) -> None:
    """Starts a workload as the driver does, and waits until it has started."""
    (home / "state").mkdir(exist_ok=True)
    (home / "state/environ").write_bytes(b"PATH=/usr/bin:/bin\0")
    environment = {
        "PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin",
        "HOME": str(home),
    }
    # The script comes by -c, as over SSH; its input is the workload's text.
    subprocess.run(
        ["/bin/sh", "-c", here(launch_script(RUN), home)],
        input=work_text(command, str(home), {"WORD": "it's"}),
        env=environment,
        check=True,
    )
    look_until(home, "running", "exited")


def look_until(home: Path, *states: str) -> Look:
    """Looks until the workload is in one of these states."""
    deadline = time.monotonic() + 240
    while (look := parse_look(sh(look_script(RUN, samples_gpus=False), home))).state not in states:
        assert time.monotonic() < deadline, look
        time.sleep(0.05)
    return look


def said(home: Path) -> str:
    """Returns what the workload has printed so far."""
    return (home / "state/runs" / RUN / "stdout").read_text()


def test_a_workload_that_is_told_to_end_can_save_what_it_has(tmp_path: Path) -> None:
    """All of its group hear it; its own exit code is kept, and nothing is told twice."""
    save = "trap 'echo saved; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    launch(tmp_path, "sh", "-c", save)
    while "up" not in said(tmp_path):
        time.sleep(0.05)
    sh(stop_script(RUN), tmp_path)
    look = look_until(tmp_path, "exited", "vanished")

    assert (look.state, look.exit_code, look.cause) == ("exited", 3, None)
    assert said(tmp_path) == "up\nsaved\n"
    sh(stop_script(RUN), tmp_path)
    sh(kill_script(RUN), tmp_path)


def test_a_workload_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """With everything that it has started."""
    stubborn = "trap '' TERM; echo $$; sleep 600 & echo $!; wait; wait; sleep 600"
    launch(tmp_path, "sh", "-c", stubborn)
    while len(pids := said(tmp_path).split()) < 2:
        time.sleep(0.05)
    sh(stop_script(RUN), tmp_path)
    assert look_until(tmp_path, "running").exit_code is None
    sh(kill_script(RUN), tmp_path)
    look_until(tmp_path, "vanished")

    for pid in pids:
        while Path(f"/proc/{pid}").exists() and _state(int(pid)) != "Z":
            time.sleep(0.05)


@pytest.mark.parametrize(
    "odd", ["mkfifo FILE", "truncate -s 1T FILE", "mkdir FILE", "ln -s /dev/stdout FILE"]
)
def test_a_look_does_not_hang_on_what_a_workload_makes_of_its_progress(
    tmp_path: Path, odd: str
) -> None:
    """Else the machine would seem to be silent, and its host be blamed."""
    make = odd.replace("FILE", f'"${PROGRESS_VARIABLE}"')
    launch(tmp_path, "sh", "-c", f"{make}; echo up; exec sleep 600")
    while "up" not in said(tmp_path):
        time.sleep(0.05)
    assert look_until(tmp_path, "running").progress is None
    sh(kill_script(RUN), tmp_path)


def test_a_lack_of_memory_is_told_apart(tmp_path: Path) -> None:
    """By the kernel's count of the container's kills."""
    (tmp_path / "cgroup").mkdir()
    counts = tmp_path / "cgroup/memory.events"
    counts.write_text("low 0\noom 0\noom_kill 2\n")
    launch(tmp_path, "sh", "-c", f"echo oom_kill 3 > {counts}; exit 137")

    assert look_until(tmp_path, "exited").cause is Cause.OUT_OF_MEMORY


def test_a_kill_of_something_else_s_before_is_no_lack_of_memory(tmp_path: Path) -> None:
    """Only what was counted during the run counts."""
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup/memory.events").write_text("oom_kill 2\n")
    launch(tmp_path, "sh", "-c", "exit 1")

    look = look_until(tmp_path, "exited")
    assert (look.exit_code, look.cause) == (1, None)


def test_a_lost_gpu_is_told_apart(tmp_path: Path) -> None:
    """Fewer answer than when the machine was measured."""
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-0)'\n")
    tool.chmod(0o755)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/gpus").write_text("2\n")
    launch(tmp_path, "sh", "-c", "exit 1", path=tool.parent)

    assert look_until(tmp_path, "exited").cause is Cause.GPU_LOST


def test_a_full_disk_is_told_apart_and_the_end_recorded(tmp_path: Path) -> None:
    """On a real file system of 4 MB, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("this kernel lets nobody make a mount namespace")
    fill = work_text(["sh", "-c", "cat /dev/zero > big; exit 5"], str(disk), {})
    script = (
        f"mount -t tmpfs -o size=4m disk {disk} && "
        f"mkdir {disk}/state; : > {disk}/state/environ; "
        f"sh -c {shlex.quote(here(launch_script(RUN), disk))}; "
        f"n=0; while [ $n -lt 600 ] && [ ! -e {disk}/state/runs/{RUN}/exit ]; do sleep 0.1; "
        f"n=$((n + 1)); done; "
        f"sh -c {shlex.quote(here(look_script(RUN, samples_gpus=False), disk))}"
    )
    done = subprocess.run([*alone, "sh", "-c", script], input=fill, capture_output=True, check=True)
    look = parse_look(done.stdout)

    assert (look.exit_code, look.cause) == (5, Cause.DISK_FULL)


@pytest.mark.parametrize("shell", shells())
def test_a_look_is_a_heartbeat_on_a_full_disk_too(shell: str, tmp_path: Path) -> None:
    """Else the watchdog would end a workload that goes on, such as one that only lost its cache."""
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("this kernel lets nobody make a mount namespace")
    (tmp_path / "sh").symlink_to(shell)
    look = f"{tmp_path}/sh -c {shlex.quote(here(look_script(RUN, samples_gpus=False), disk))}"
    script = (
        f"mount -t tmpfs -o size=64k disk {disk} && mkdir {disk}/state && "
        f"{look}; first=$(cat {disk}/state/heartbeat); dd if=/dev/zero of={disk}/big bs=4096; "
        f"sleep 1.1; {look}; echo $first $(cat {disk}/state/heartbeat)"
    )
    done = subprocess.run([*alone, "sh", "-c", script], capture_output=True, check=True)
    first, second = done.stdout.split()[-2:]

    assert int(first) < int(second)


@pytest.mark.parametrize("faults", [{}, {"is_mislabelled": True}, {"is_broken": True}])
def test_a_machine_measures_itself(tmp_path: Path, faults: dict[str, bool]) -> None:
    """By the simulator's tools; everything but GPUs, cores and memory is this machine's own."""
    facts = next(one for one in read_market() if one.num_gpus == 2)
    every = {"is_mislabelled": False, "is_broken": False, "is_slow": False} | faults
    (tmp_path / "bin").mkdir()
    for name, text in tools(facts, **every).items():
        (tmp_path / "bin" / name).write_text(here(text, tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "meminfo").write_text(meminfo(facts))
    (tmp_path / "state").mkdir()
    with subprocess.Popen(["sleep", "60"]) as watchdog:
        (tmp_path / "state/watchdog.pid").write_text(f"{watchdog.pid}\n")
        environment = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        }
        told = parse_measure(
            subprocess.run(
                ["/bin/sh"],
                input=here(MEASURE_SCRIPT, tmp_path).encode(),
                env=environment,
                capture_output=True,
                check=True,
            ).stdout
        )
        watchdog.kill()

    if "is_broken" in faults:
        assert (told.gpus, told.gpu_problem) == ((), BROKEN)
    else:
        name = MISLABELLED if faults else OWN_NAMES[facts.gpu_name]
        assert [gpu.name for gpu in told.gpus] == [name] * 2
        assert is_same_model(facts.gpu_name, told.gpus[0].name) == (not faults)
        assert told.cuda_version == f"{facts.cuda_max_good:.1f}"
        assert (tmp_path / "state/gpus").read_text().strip() == "2"
    assert told.cpu_cores == 32
    assert told.memory_mib == pytest.approx(128_000 * 10**6 / 2**20, rel=0.01)
    assert told.disk_mib > told.disk_free_mib > 0
    assert told.disk_write_mbps > 0
    assert told.watchdog_client is not None
    assert told.watchdog_runs
    assert not (tmp_path / "state/probe").exists()


def test_only_the_probe_of_a_machine_s_disk_writes_less_than_it_was_told(tmp_path: Path) -> None:
    """What a workload writes is written."""
    every = {"is_mislabelled": False, "is_broken": False, "is_slow": False}
    stands_in = tools(read_market()[0], **every)["dd"]
    (tmp_path / "dd").write_text(stands_in)
    (probe,) = (line for line in MEASURE_SCRIPT.splitlines() if "dd if=" in line)
    asked = probe.partition("dd ")[2].partition(" 2>")[0]
    for name in ("probe", "data"):
        told = asked.replace('"$g/probe"', f"{tmp_path}/{name}").replace("$((n * 8))", "8")
        subprocess.run(["sh", str(tmp_path / "dd"), *told.split()], check=True)

    assert (tmp_path / "data").stat().st_size == 16 * 2**20
    assert (tmp_path / "probe").stat().st_size == 16 * 4096


@pytest.mark.parametrize(
    "output",
    [b"", b"cores 2\n", b"cores 2\nmemory x\n", b"memory 1\ncores -1\ndisk 1 1\nwrite 0 0 0"],
)
def test_a_measure_that_is_not_understood(output: bytes) -> None:
    """What is not told is not guessed."""
    with pytest.raises(ValueError, match=r"did not report its|is not a number|greater than"):
        parse_measure(output)


def test_a_limit_of_the_container_is_its_memory() -> None:
    """Not what the whole host has."""
    told = parse_measure(
        b"cores 2\nmemory 64000000\nfree 60000000\nlimit 1073741824\nused 268435456\n"
        b"disk 10000000 5000000\nwrite 67108864 10.00 10.50\n"
    )

    assert (told.memory_mib, told.memory_free_mib) == (1024, 768)
    assert told.disk_write_mbps == pytest.approx(134.2, abs=0.1)
    assert (told.watchdog_client, told.watchdog_runs) == (None, False)


def test_how_much_was_printed_outlives_the_driver(tmp_path: Path) -> None:
    """Each start of it has a number of its own."""
    assert [next_session(tmp_path) for _ in range(3)] == [1, 2, 3]
    target = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    Printed(target, tmp_path, "stdout-0").write(b"x" * 70_000)
    Printed(target, tmp_path, "stdout-0").write(b"y" * 7)
    os.close(target)

    assert Printed(1, tmp_path, "stdout-0").value == 70_007
    assert Printed(1, tmp_path, "stdout-1").value == 0
    assert (tmp_path / "out").read_bytes() == b"x" * 70_000 + b"y" * 7


@pytest.mark.parametrize(
    "output",
    [
        b"running 7\nlog 9007199254740992 3",
        b"running 7\nlog 12 9007199254740992",
        b"running 7\ngpu 37, 1000000001",
    ],
)
def test_a_number_that_no_report_can_hold_is_refused(output: bytes) -> None:
    """Else a stranger's machine would end its own driver when it next reports."""
    with pytest.raises(ValueError, match="understood"):
        parse_look(output)


@pytest.mark.parametrize("word", ["running", "vanished", "exited 0"])
@pytest.mark.parametrize("told", [0, 10**9, 1_800_000_000])
def test_a_run_whose_start_is_not_known_has_no_length(word: str, told: int) -> None:
    """A disk that is full by then takes no start: what is told is the time since 1970."""
    look = parse_look(f"{word} {told}".encode())

    assert look.run_seconds == (told if told < 1_800_000_000 else None)


ALONE = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc")
"""As a container runs: its pids begin at 1, and all of its processes end with the first one."""


def contained(home: Path, script: str, work: bytes = b"") -> bytes:
    """Runs a script as the first process of a container with these files."""
    (home / "state").mkdir(exist_ok=True)
    (home / "state/environ").write_bytes(b"PATH=/usr/bin:/bin\0")
    (home / "state/cwd").write_text("/\n")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    return subprocess.run(
        [*ALONE, "sh", "-c", here(script, home)],
        input=here(work.decode(), home).encode(),
        env=environment,
        capture_output=True,
        check=True,
    ).stdout


def test_after_a_restart_of_the_container_nothing_seems_to_run(tmp_path: Path) -> None:
    """Its files are there, and another process has got the supervisor's pid."""
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0:
        pytest.skip("this kernel lets nobody make a pid namespace")
    folder = tmp_path / "state/runs" / RUN
    waits = f"while [ ! -e {folder}/started ]; do sleep 0.05; done"
    begun = f"{launch_script(RUN).replace('exit 0', ':')}\n{waits}\n"
    alive = f"sh -c {shlex.quote(look_script(RUN, samples_gpus=False))}"
    first = contained(tmp_path, begun + alive, work_text(["sleep", "600"], None, {}))
    pid = int((folder / "started").read_text())
    # The next container has as many processes, so that one of them has this pid.
    crowd = f"n=0; while [ $n -lt {pid + 5} ]; do sleep 60 & n=$((n + 1)); done; kill -0 {pid}\n"
    again = contained(tmp_path, crowd + alive)

    assert parse_look(first).state == "running"
    assert parse_look(again).state == "restarted"
    for script in (stop_script(RUN), kill_script(RUN)):
        rest = f"sh -c {shlex.quote(script)}; kill -0 {pid} && echo unharmed"
        assert contained(tmp_path, crowd + rest) == b"unharmed\n"
    follows = f"sh -c {shlex.quote(follow_script(RUN, 'stdout', 0))}; echo over"
    assert contained(tmp_path, crowd + follows) == b"over\n"


def test_a_pid_that_another_process_got_is_not_the_supervisor_s(tmp_path: Path) -> None:
    """Without a restart, too: pids come round. Nobody else is told to end."""
    with subprocess.Popen(["sleep", "600"]) as other:
        started(tmp_path, other.pid)
        (tmp_path / "state/runs" / RUN / "since").write_text("1\n")
        try:
            assert (
                parse_look(sh(look_script(RUN, samples_gpus=False), tmp_path)).state == "vanished"
            )
            sh(stop_script(RUN), tmp_path)
            sh(kill_script(RUN), tmp_path)
            assert sh(follow_script(RUN, "stdout", 0), tmp_path) == b"said\n"
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("name", ["a b", "x) S 1 2", "((", "sh"])
def test_a_start_is_read_whatever_the_process_is_called(tmp_path: Path, name: str) -> None:
    """Its name stands before it, and may hold what separates the fields."""
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "600"]) as process:
        try:
            told = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
            said = sh(f"{ALIVE}\nsince {process.pid}; echo $ticks", tmp_path)
            assert said.decode().split() == [told]
        finally:
            process.kill()


def test_a_workload_that_has_ended_has_ended_also_after_a_restart(tmp_path: Path) -> None:
    """Its exit code is in its files."""
    launch(tmp_path, "sh", "-c", "exit 3")
    look_until(tmp_path, "exited")
    (tmp_path / "state/runs" / RUN / "born").write_text("another:1\n")

    assert parse_look(sh(look_script(RUN, samples_gpus=False), tmp_path)).exit_code == 3


@pytest.mark.parametrize(("born", "state"), [("another:1", "restarted"), ("", "running")])
def test_what_is_not_known_of_a_start_is_no_restart(tmp_path: Path, born: str, state: str) -> None:
    """A full disk took no record, or an older driver made none."""
    launch(tmp_path, "sleep", "600")
    (tmp_path / "state/runs" / RUN / "born").write_text(born)
    try:
        assert parse_look(sh(look_script(RUN, samples_gpus=False), tmp_path)).state == state
    finally:
        sh(kill_script(RUN), tmp_path)


def test_a_launch_that_a_restart_cut_short_is_one_too(tmp_path: Path) -> None:
    """Else it would be waited for, and then fail the workload that never ran."""
    folder = tmp_path / "state/runs" / RUN
    folder.mkdir(parents=True)
    (folder / "born").write_text("another:1\n")

    assert parse_look(sh(look_script(RUN, samples_gpus=False), tmp_path)).state == "restarted"
