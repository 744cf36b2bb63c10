"""The demo's story on a real cluster, and what it promises about pods, money and the token."""

import copy
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

import demo
from demo import Object, Stage, accounts, check, condition, play
from localcluster.node import Node

PROBE = """
import json, os
status = dict(
    line.rstrip().split(":", 1) for line in open("/proc/1/status") if ":" in line
)
def refused(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.strerror
    return None
print(json.dumps({
    "uid": os.getuid(),
    "status": {key: value.strip() for key, value in status.items()},
    "writes": {path: refused(path) for path in ("/x", "/etc/x", "/opt/gpujob/x")},
    "tokens": os.path.exists("/var/run/secrets/kubernetes.io"),
}))
"""

SEARCH = """
import glob, os, sys
needle = sys.stdin.buffer.read().strip()
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try:
        data = open(path, "rb").read()
        machine = b"VASTSIM_MACHINE=" in open(path.rsplit("/", 1)[0] + "/environ", "rb").read()
    except OSError:
        continue
    if needle in data and (machine or path.endswith("cmdline")):
        print(path)
"""


@dataclass
class Seen:
    """What was looked at while the story went on."""

    inside: Object = field(default_factory=dict)
    pod: Object = field(default_factory=dict)
    token_in_processes: str = ""
    logs: str = ""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A cluster with everything on it."""
    made = Stage("gpujob-e2e")
    made.down()
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def seen(stage: Stage) -> Seen:
    """The story, with a look inside the running driver."""
    found = Seen()

    def look(jobs: dict[str, Object]) -> None:
        running = condition(jobs.get("train", {}), "Ready").get("reason") == "Running"
        if not running or found.inside:
            return
        driver = ("-n", "demo", "train-0-1-driver")
        python = ("--", "/usr/bin/python3", "-c")
        found.inside = json.loads(stage.kubectl("exec", *driver, *python, PROBE))
        found.pod = json.loads(stage.kubectl("get", "pod", *driver, "-o", "json"))
        simulator = ("exec", "-i", "-n", "vastsim", "vastsim")
        found.token_in_processes = stage.kubectl(*simulator, *python, SEARCH, text=stage.token)
        found.token_in_processes += _command_lines_with(stage.token)

    play(stage, look)
    for namespace in ("demo", "gpujob-system", "vastsim"):
        for pod in stage.get("pods", namespace):
            found.logs += stage.kubectl("logs", "-n", namespace, pod["metadata"]["name"])
    return found


def _command_lines_with(token: str) -> str:
    held = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return "\n".join(line for line in held.stdout.splitlines() if token in line)


def test_every_job_comes_to_its_end_and_nothing_is_left(stage: Stage, seen: Seen) -> None:
    """Outcomes, machines, money and the deadline are as the demo promises."""
    check(stage)


def test_our_figure_is_just_above_the_ledger(stage: Stage, seen: Seen) -> None:
    """ledger <= ours <= ledger + rate x lag cap per attempt, for every job."""
    rows = accounts(stage)

    assert [fault for row in rows for fault in row.faults()] == []
    assert sum(row.attempts for row in rows) == 4


def test_the_driver_runs_with_nothing(seen: Seen) -> None:
    """Not root, no capability, no new privileges, seccomp on, a root that can not be written."""
    status = seen.inside["status"]
    sets = {
        name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    }

    assert seen.inside["uid"] == 10001
    assert sets == dict.fromkeys(sets, 0)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert set(seen.inside["writes"].values()) == {"Read-only file system"}
    assert not seen.inside["tokens"], "no token of the API server may be there"


def test_the_namespace_refuses_the_same_pod_with_privileges(stage: Stage, seen: Seen) -> None:
    """Pod Security restricted is enforced there."""
    pod = copy.deepcopy(seen.pod)
    pod["metadata"] = {"name": "privileged", "namespace": "demo"}
    pod.pop("status")
    pod["spec"].pop("nodeName")
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(demo.DemoError, match='violates PodSecurity "restricted'):
        stage.apply(pod)


def test_logs_are_complete_and_in_order(stage: Stage, seen: Seen) -> None:
    """kubectl logs shows what the workload printed, from its first line to its last."""
    log = stage.kubectl("logs", "-n", "demo", "train-0-1-driver")
    lines = [line for line in log.splitlines() if not line.startswith("gpujob:")]
    epochs = [int(line.split()[1].rstrip(":")) for line in lines if line.startswith("epoch")]

    assert epochs == sorted(set(epochs))
    assert lines[-1].startswith("done after")
    assert float(lines[-1].split()[-1]) > 0.9


def test_the_token_is_found_nowhere(stage: Stage, seen: Seen) -> None:
    """Not in logs, events, objects other than its Secret, process lists, or on machines."""
    kinds = stage.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    kinds = [kind for kind in kinds if kind not in ("secrets", "componentstatuses")]
    objects = stage.kubectl("get", ",".join(kinds), "-A", "-o", "json")

    assert stage.token not in seen.logs
    assert stage.token not in objects
    assert seen.token_in_processes.strip() == ""
    if isinstance(stage.cluster, Node):
        for path in (stage.cluster.state / "log").glob("*.log"):
            assert stage.token not in path.read_text(errors="replace"), path.name


def test_what_a_user_sees(stage: Stage, seen: Seen) -> None:
    """kubectl get and describe tell the story."""
    table = stage.kubectl("get", "gj,gn", "-n", "demo")
    told = stage.kubectl("describe", "gpujob", "unlucky", "-n", "demo")

    assert "DeadlineExceeded" in table
    assert "CeilingExceeded" in table
    for reason in ("HostLost", "Complete", "Running"):
        assert reason in told


def test_waiting_by_condition_works(stage: Stage, seen: Seen) -> None:
    """kubectl wait sees what it is asked for."""
    wait = ("wait", "-n", "demo", "--timeout=5s")

    stage.kubectl(*wait, "--for=condition=Complete", "gpujob/train")
    stage.kubectl(*wait, "--for=condition=Failed", "gpujob/overdue")


def test_deleting_the_namespace_ends(stage: Stage, seen: Seen) -> None:
    """With a job running in it, too; it goes once nothing is leased."""
    manifest = (demo.PARTS / "train.yaml").read_text().replace("namespace: demo", "namespace: left")
    stage.namespace("left")
    stage.kubectl("apply", "-f", "-", text=manifest)
    running = "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=Running"
    stage.kubectl("wait", "-n", "left", "--timeout=120s", running, "gpujob/train")
    stage.kubectl("delete", "namespace", "left", "--timeout=120s")

    states = [one["state"] for one in stage.ledger()]
    assert states == ["destroyed"] * 5
