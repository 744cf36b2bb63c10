"""The local cluster takes nothing of the machine that it does not give back."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.integration.parts import eventually

from localcluster import binaries, kind
from localcluster.node import SYSCTLS, Node
from localcluster.paths import ROOT


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """What the looks need is what the cluster needs."""
    binaries.ensure_packages()


NAMES = ("gpujob-trace-a", "gpujob-trace-b")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or kind.engine() is not None,
    reason="without root, or with a container engine, the cluster is not made of plain processes",
)


def traces() -> dict[str, object]:
    """Returns what a cluster could leave behind on this machine."""

    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True).stdout

    cgroups = [str(path) for path in Path("/sys/fs/cgroup").glob("**/gpujob-trace-*")]
    processes = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if any(name.encode() in _read(path) for name in NAMES)
    ]
    return {
        "links": said("ip", "-brief", "link"),
        "routes": said("ip", "route"),
        "mounts": sorted(Path("/proc/self/mounts").read_text().splitlines()),
        "rules": said("nft", "list", "ruleset"),
        "cgroups": cgroups,
        "processes": processes,
        "sysctls": {knob: Path("/proc/sys", knob).read_text() for knob in SYSCTLS},
        "states": [name for name in NAMES if Node(name).state.exists()],
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_two_clusters_stand_side_by_side_and_leave_nothing() -> None:
    """Both are up at once; after both are down the machine is as before."""
    before = traces()
    first, second = (Node(name) for name in NAMES)
    try:
        first.up()
        second.up()
        first.up()
        assert "Ready" in first.kubectl("get", "nodes")
        first.down()
        assert "Ready" in second.kubectl("get", "nodes")
    finally:
        first.down()
        second.down()

    assert traces() == before


def test_an_interrupted_start_leaves_nothing_after_down() -> None:
    """Killed half way, it is taken down all the same; killed whole, it resumes."""
    before = traces()
    name = NAMES[0]
    node = Node(name)
    command = [str(ROOT / "hack/cluster"), "--name", name, "up"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        eventually("the namespaces are there", lambda: node.init_pid() is not None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        node.up()
        pid = node.init_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 120
        while node.init_pid() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        node.up()
        assert "Ready" in node.kubectl("get", "nodes")
    finally:
        node.down()

    assert traces() == before


def test_a_demo_that_is_interrupted_twice_leaves_nothing() -> None:
    """The second interrupt comes while it cleans up, as from a user who is impatient."""
    before = traces()
    name = NAMES[0]
    node = Node(name)
    command = [str(ROOT / "hack/demo"), "--name", name]
    try:
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            eventually("the namespaces are there", lambda: node.init_pid() is not None)
            os.killpg(process.pid, signal.SIGINT)
            assert process.stdout is not None, "it was requested as a pipe"
            said = []
            for line in process.stdout:
                said.append(line)
                if "removing the cluster" in line:
                    os.killpg(process.pid, signal.SIGINT)
        assert process.returncode == 130, said
        assert "hack/demo: interrupted\n" in said
        assert traces() == before
    finally:
        node.down()
