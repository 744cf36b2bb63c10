"""The demo's story on a real cluster, and what it promises about pods, money and the token."""

import base64
import copy
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
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
        _uninstall(made)
    finally:
        made.down()


def _uninstall(stage: Stage) -> None:
    """Last of all, in whatever order the tests ran: the release goes, then what it has finished.

    Nothing that is over waits for an operator; a job that still waits would.
    """
    stage.kubectl("delete", "gpujob", "too-cheap", "-n", "demo", "--timeout=60s")
    stage.helm("uninstall", "gpujob", "-n", "gpujob-system", "--wait", "--timeout=120s")
    names = {one["metadata"]["name"] for one in stage.get("gpujobs", "demo")}
    assert names == {"train", "overdue", "unlucky"}, "the kinds and the jobs are kept"
    stage.kubectl("delete", "namespace", "demo", "--timeout=60s")
    assert {one["state"] for one in stage.ledger()} == {"destroyed"}


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


OTHERS = {
    "controller": ("gpujob-system", "app.kubernetes.io/component=controller"),
    "server": ("gpujob-system", "app.kubernetes.io/component=server"),
    "simulator": ("vastsim", "app.kubernetes.io/name=vastsim"),
}
"""Whatever else runs for long: its namespace and label."""


def _pods(stage: Stage, name: str) -> list[Object]:
    namespace, label = OTHERS[name]
    found = json.loads(stage.kubectl("get", "pods", "-n", namespace, "-l", label, "-o", "json"))
    # A replaced server takes its time to go; it may be gone before it is looked into.
    pods = [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]
    assert pods
    return pods


def _has_nothing(inside: Object) -> None:
    """Not root, no capability, no new privileges, seccomp on, a root that can not be written."""
    status = inside["status"]
    sets = {
        name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    }

    assert inside["uid"] == 10001
    assert sets == dict.fromkeys(sets, 0)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert set(inside["writes"].values()) == {"Read-only file system"}


def test_the_driver_runs_with_nothing(seen: Seen) -> None:
    """Looked at from inside, while the workload ran."""
    _has_nothing(seen.inside)
    assert not seen.inside["tokens"], "no token of the API server may be there"


@pytest.mark.parametrize("name", OTHERS)
def test_all_else_runs_with_nothing(stage: Stage, name: str) -> None:
    """Every replica; the token of the API server is only where it is used."""
    for pod in _pods(stage, name):
        where = ("-n", pod["metadata"]["namespace"], pod["metadata"]["name"])
        inside = json.loads(stage.kubectl("exec", *where, "--", "/usr/bin/python3", "-c", PROBE))
        _has_nothing(inside)
        assert inside["tokens"] is (name != "simulator")


def _dropped(pod: Object, field: str) -> None:
    """Takes a field away from the pod and from its containers."""
    for holder in (pod["spec"], *pod["spec"]["containers"]):
        holder.get("securityContext", {}).pop(field, None)


LOOSER: dict[str, Callable[[Object], object]] = {
    "it may be root": lambda pod: _dropped(pod, "runAsNonRoot"),
    "it may escalate": lambda pod: _dropped(pod, "allowPrivilegeEscalation"),
    "it keeps its capabilities": lambda pod: _dropped(pod, "capabilities"),
    "no seccomp": lambda pod: _dropped(pod, "seccompProfile"),
    "privileged": lambda pod: pod["spec"]["containers"][0]["securityContext"].update(
        privileged=True, allowPrivilegeEscalation=True
    ),
    "the network of the host": lambda pod: pod["spec"].update(hostNetwork=True),
    "the processes of the host": lambda pod: pod["spec"].update(hostPID=True),
    "the memory of the host": lambda pod: pod["spec"].update(hostIPC=True),
}


@pytest.mark.parametrize("what", LOOSER)
@pytest.mark.parametrize("name", ["driver", *OTHERS])
def test_the_namespace_refuses_the_same_pod_with_more(
    stage: Stage, seen: Seen, name: str, what: str
) -> None:
    """Pod Security restricted is enforced there; the pod as it is passes."""
    stored = seen.pod if name == "driver" else _pods(stage, name)[0]
    namespace = stored["metadata"]["namespace"]
    head = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "copy", "namespace": namespace}}
    spec = {key: value for key, value in stored["spec"].items() if key != "nodeName"}
    looser = head | {"spec": copy.deepcopy(spec)}
    LOOSER[what](looser)
    dry_run = ("create", "--dry-run=server", "-f", "-")

    stage.kubectl(*dry_run, text=json.dumps(head | {"spec": spec}))
    with pytest.raises(demo.DemoError, match='violates PodSecurity "restricted'):
        stage.kubectl(*dry_run, text=json.dumps(looser))


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


def test_the_servers_are_replaced_without_a_review_that_fails(stage: Stage, seen: Seen) -> None:
    """A new version comes; somebody applies jobs all the while."""
    text = (demo.PARTS / "train.yaml").read_text()
    manifest = text.replace("name: train", "name: another", 1)
    server = ("deployment/gpujob-server", "-n", "gpujob-system")
    stage.kubectl("rollout", "restart", *server)
    waiting = stage.command("kubectl", "rollout", "status", *server, "--timeout=120s")
    reviews = 0
    with subprocess.Popen(waiting, stdout=subprocess.DEVNULL) as rollout:
        while rollout.poll() is None:
            stage.kubectl("create", "--dry-run=server", "-f", "-", text=manifest)
            reviews += 1

    assert rollout.returncode == 0
    assert reviews > 5


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


ASK = """
import json, ssl, sys, urllib.request
told = json.load(sys.stdin)
trusted = ssl.create_default_context(cadata=told["authority"])
url = "https://gpujob-server.gpujob-system.svc:8444" + told["path"]
head = {"Authorization": "Bearer " + told["token"]} if told["token"] else {}
try:
    answer = urllib.request.urlopen(urllib.request.Request(url, headers=head), context=trusted)
except urllib.error.HTTPError as refused:
    answer = refused
print(answer.status, answer.read().decode())
"""


def _servers(stage: Stage) -> list[Object]:
    return [
        pod
        for pod in stage.get("pods", "gpujob-system")
        if pod["metadata"]["name"].startswith("gpujob-server-")
        and "deletionTimestamp" not in pod["metadata"]
    ]


def test_the_http_api_answers_whoever_has_a_token(stage: Stage, seen: Seen) -> None:
    """As installed: a token made by the documented command reads one namespace, and no more."""
    command = ("deployment/gpujob-server", "-n", "gpujob-system", "--", "/usr/bin/python3")
    make = ("-m", "gpujob", "token", "ci", "--namespaces", "demo", "--access", "read")
    done = subprocess.run(
        stage.command("kubectl", "exec", *command, *make),
        capture_output=True,
        text=True,
        check=True,
    )
    (token,) = re.findall(r"gpujob_[A-Za-z0-9_-]{43}", done.stderr)
    apply = ("apply", "--server-side", "--field-manager=token-ci", "-f", "-")
    stage.kubectl(*apply, text=done.stdout)
    (webhook,) = stage.get("validatingwebhookconfigurations", "")
    bundle = webhook["webhooks"][0]["clientConfig"]["caBundle"]
    authority = base64.b64decode(bundle).decode()

    def ask(path: str, token: str) -> tuple[int, str]:
        told = json.dumps({"authority": authority, "path": path, "token": token})
        pod = ("exec", "-i", "-n", "vastsim", "vastsim", "--", "/usr/bin/python3", "-c", ASK)
        status, _, text = stage.kubectl(*pod, text=told).partition(" ")
        return int(status), text

    def knows(pod: Object) -> bool:
        name = pod["metadata"]["name"]
        return '"tokens": 1' in stage.kubectl("logs", "-n", "gpujob-system", name)

    jobs = "/v1/namespaces/demo/jobs"
    deadline = time.monotonic() + 60
    # Each of the servers looks for itself.
    while not all(knows(pod) for pod in _servers(stage)) and time.monotonic() < deadline:
        time.sleep(0.5)
    status, text = ask(jobs, token)
    assert status == 200, text
    names = {one["metadata"]["name"] for one in json.loads(text)["items"]}
    assert names == {"train", "too-cheap", "overdue", "unlucky"}
    status, text = ask(f"{jobs}/train/log", token)
    assert status == 200
    assert text.strip() == stage.kubectl("logs", "-n", "demo", "train-0-1-driver").strip()
    assert "done after" in text
    status, text = ask(f"{jobs}/too-cheap/decision", token)
    assert (status, json.loads(text)["reason"]) == (200, "CeilingExceeded")
    assert ask("/v1/namespaces/demo/machines", token) == (200, '{"items":[]}\n')
    assert ask("/v1/jobs", token)[0] == 403
    assert ask("/v1/namespaces/kube-system/jobs", token)[0] == 403
    assert ask(jobs, "")[0] == 401
    assert ask(jobs, token[:-1])[0] == 401
    logs = "".join(
        stage.kubectl("logs", "-n", "gpujob-system", pod["metadata"]["name"])
        for pod in _servers(stage)
    )
    assert token not in logs
    assert "token ci" in logs
