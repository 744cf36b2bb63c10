"""Logs and files on a real cluster: nothing is lost, whatever dies in the middle."""

import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tests.e2e.evidence import touch_on_machines

from demo import Object, Stage, condition
from localcluster.node import Node

LINE_BYTES = 20
PATIENCE_SECONDS = 800
READY = "--for=condition=Ready"


def job(name: str, script: str, **spec: Any) -> Object:
    """A GpuJob that runs a Python script."""
    wanted = {
        "image": "python:3.11-slim",
        "command": ["python3", "-c", script],
        "activeDeadlineSeconds": 1200,
        "gpu": {"models": ["RTX 4090"]},
        "cost": {"ceiling": "3.00"},
    }
    return {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": name, "namespace": "demo"},
        "spec": wanted | spec,
    }


def eventually(
    stage: Stage, name: str, look: Callable[[Object], Any], *, namespace: str = "demo"
) -> Any:
    """Looks at a job until something true is seen, and returns it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        text = stage.kubectl("get", "gpujob", name, "-n", namespace, "-o", "json")
        found: Object = json.loads(text)
        if seen := look(found):
            return seen
        assert time.monotonic() < deadline, condition(found, "Ready")
        time.sleep(0.5)


def over(found: Object) -> Object | None:
    """The job, once it is over."""
    ended = [condition(found, kind).get("status") for kind in ("Complete", "Failed")]
    return found if "True" in ended else None


def on_claim(
    stage: Stage, claim: str, script: str, *, user: int = 10001, writes: bool = False
) -> str:
    """Runs Python in a pod of our own that mounts a claim, and returns what it prints.

    For one that writes, the kubelet gives the claim and all files on it to the pod's group.
    """
    image = stage.get("pods", "vastsim")[0]["spec"]["containers"][0]["image"]
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    stage.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "look", "namespace": "demo"},
            "spec": {
                "restartPolicy": "Never",
                "securityContext": {"fsGroup": user} if writes else {},
                "containers": [
                    {
                        "name": "look",
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["/usr/bin/python3", "-c", script],
                        "securityContext": security,
                        "volumeMounts": [{"name": "claim", "mountPath": "/claim"}],
                    }
                ],
                "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}],
            },
        }
    )
    done = "--for=jsonpath={.status.phase}=Succeeded"
    stage.kubectl("wait", "pod/look", "-n", "demo", done, "--timeout=240s")
    printed = stage.kubectl("logs", "look", "-n", "demo")
    stage.kubectl("delete", "pod", "look", "-n", "demo", "--grace-period=1")
    return printed


class _Line:
    """The driver pod's network."""

    def __init__(self, stage: Stage, pod: str) -> None:
        self._cluster = stage.cluster
        probe = ("-n", "demo", pod, "--", "/usr/bin/python3", "-c")
        code = "print(open('/sys/class/net/eth0/iflink').read())"
        self._number = stage.kubectl("exec", *probe, code).strip()

    def cut(self, seconds: float) -> None:
        """Lets nothing through for so long: no end of a connection is told of it."""
        assert isinstance(self._cluster, Node), "asked only of the cluster of our own"
        listed = self._cluster.run_inside("ip", "-o", "link")
        row = next(line for line in listed.splitlines() if line.startswith(f"{self._number}: "))
        name = row.split(": ")[1].partition("@")[0]
        self._cluster.run_inside("ip", "link", "set", name, "down")
        time.sleep(seconds)
        self._cluster.run_inside("ip", "link", "set", name, "up")


@pytest.mark.timeout(1800)
def test_a_log_is_whole_although_drivers_die_and_the_line_is_cut(
    stage: Stage, request: pytest.FixtureRequest
) -> None:
    """What the kubelet has rotated away is on the claim: byte for byte what was printed."""
    whole = request.config.getoption("whole")
    lines, kills, cuts = (50_000_000, 5, 3) if whole else (4_000_000, 2, 1)
    script = (
        f"import os, sys, time\n"
        f"for start in range(0, {lines}, 50000):\n"
        f"    sys.stdout.write(''.join('%019d\\n' % n for n in range(start, start + 50000)))\n"
        f"    sys.stdout.flush(); time.sleep({0.1 if whole else 0.3})\n"
        # The last of it comes once all was done to it.
        f"    while start == {lines - 50_000} and not os.path.exists('/tmp/go'): time.sleep(0.1)\n"
        f"print('the end')\n"
    )
    data = {"log": {"claimName": "logs"}, "maxUploadGB": 10, "drainSeconds": 300}
    stage.kubectl("apply", "-f", "-", text=json.dumps(job("talks", script, data=data)))
    pod = "talks-0-1-driver"
    eventually(stage, "talks", lambda found: condition(found, "Running").get("status") == "True")
    for number in range(kills):
        time.sleep(3)
        if number % 2:
            # Another pod takes its place; what it prints begins anew, what is kept does not.
            stage.kubectl("delete", "pod", pod, "-n", "demo", "--force", "--grace-period=0")
        else:
            end = "import os, signal; os.kill(1, signal.SIGTERM)"
            command = ("exec", "-n", "demo", pod, "--", "/usr/bin/python3", "-c", end)
            subprocess.run(stage.command("kubectl", *command), capture_output=True, check=False)
        if number < cuts and isinstance(stage.cluster, Node):
            stage.kubectl("wait", f"pod/{pod}", "-n", "demo", "--for=create", "--timeout=240s")
            stage.kubectl("wait", f"pod/{pod}", "-n", "demo", READY, "--timeout=240s")
            time.sleep(2)
            _Line(stage, pod).cut(25 if whole else 5)
    touch_on_machines(stage, "/tmp/go")
    found = eventually(stage, "talks", over)
    assert condition(found, "Complete")["status"] == "True"
    digest = hashlib.sha256()
    for start in range(0, lines, 100_000):
        text = "".join(f"{n:019d}\n" for n in range(start, min(start + 100_000, lines)))
        digest.update(text.encode())
    digest.update(b"the end\n")
    look = (
        "import hashlib\n"
        "f = open('/claim/talks-0-1.stdout', 'rb')\n"
        "print(hashlib.file_digest(f, 'sha256').hexdigest(), f.tell())"
    )
    assert on_claim(stage, "logs", look).split() == [
        digest.hexdigest(),
        str(lines * LINE_BYTES + len("the end\n")),
    ]


@pytest.mark.timeout(1800)
def test_files_are_whole_although_the_machine_dies(
    stage: Stage, request: pytest.FixtureRequest
) -> None:
    """The next attempt goes on from the last checkpoint; outputs are what the workload wrote."""
    megabytes = 1000 if request.config.getoption("whole") else 100
    script = f"""
import hashlib, os, pathlib, random, time
work = pathlib.Path.cwd()
state, out = work / "state", work / "out"
state.mkdir(exist_ok=True); out.mkdir(exist_ok=True)
step = int((state / "step").read_text()) if (state / "step").exists() else 0
print("begins at step", step, flush=True)
chance = random.Random(7)
if step == 0:
    with open(state / "weights.new", "wb") as f:
        for _ in range({megabytes}): f.write(chance.randbytes(1000000))
    os.replace(state / "weights.new", state / "weights")
    (state / "step.new").write_text("1"); os.replace(state / "step.new", state / "step")
    time.sleep(600)
with open(state / "weights", "rb") as f:
    print("weights", hashlib.file_digest(f, "sha256").hexdigest())
with open(out / "result", "wb") as f:
    for _ in range({megabytes}): f.write(random.Random(8).randbytes(1000000))
with open(out / "result", "rb") as f:
    print("result", hashlib.file_digest(f, "sha256").hexdigest(), flush=True)
"""
    data = {
        "outputs": [{"claimName": "results", "subPath": "run", "path": "out"}],
        "checkpoint": {"claimName": "state", "path": "state", "intervalSeconds": 30},
        "maxUploadGB": 10,
        "maxDownloadGB": 10,
        "drainSeconds": 300,
    }
    stage.kubectl("apply", "-f", "-", text=json.dumps(job("learns", script, data=data)))
    log = ("logs", "-n", "demo", "learns-0-1-driver")

    def is_kept(_: Object) -> bool:
        done = subprocess.run(stage.command("kubectl", *log), capture_output=True, text=True)
        return "the checkpoint is copied" in done.stdout

    eventually(stage, "learns", is_kept)
    (lease,) = [entry for entry in stage.ledger() if entry["state"] == "running"]
    stage.simulator(f"hosts/{lease['id']}/die", {}, posts=True)
    found = eventually(stage, "learns", over)
    said = stage.kubectl("logs", "-n", "demo", "learns-0-2-driver").splitlines()
    told = dict(line.split() for line in said if line.startswith(("weights", "result")))
    look = (
        "import hashlib\n"
        "f = open('/claim/{}', 'rb')\n"
        "print(hashlib.file_digest(f, 'sha256').hexdigest())"
    )

    assert condition(found, "Complete")["status"] == "True"
    pods = [pod for pod in stage.get("pods", "demo") if "learns" in pod["metadata"]["name"]]
    statuses = [status for pod in pods for status in pod["status"]["containerStatuses"]]
    assert [status["restartCount"] for status in statuses] == [0, 0], "no driver ended on the way"
    reasons = [attempt["reason"] for attempt in found["status"]["attempts"]]
    assert reasons == ["HostLost", "Completed"]
    assert "begins at step 1" in said
    assert on_claim(stage, "state", look.format("weights")).strip() == told["weights"]
    assert on_claim(stage, "results", look.format("run/result")).strip() == told["result"]


def test_a_port_of_the_workload_is_reached_through_its_service(stage: Stage) -> None:
    """From a pod in the cluster, by the Service's name in the job's status.

    What it serves are two of its variables, which the kubelet and the machine's shell gave it.
    """
    serve = (
        "import http.server, os, pathlib\n"
        "home = pathlib.Path(os.environ['HOME'])\n"
        "(home / 'page').write_text(os.environ['PAGE'] + os.environ['UID'])\n"
        "os.chdir(home)\n"
        "http.server.test(http.server.SimpleHTTPRequestHandler, port=8181, bind='127.0.0.1')\n"
    )
    ports = [{"name": "http", "port": 8181}]
    page = "pa$$word, $(HOME), $$(UID), $ä and $"
    env = [{"name": "UID", "value": "1000"}, {"name": "PAGE", "value": page}]
    manifest = job("serves", serve, ports=ports, env=env)
    stage.kubectl("apply", "-f", "-", text=json.dumps(manifest))
    found = eventually(
        stage,
        "serves",
        lambda found: condition(found, "Running").get("status") == "True" and found,
    )
    service = found["status"]["serviceName"]
    ask = (
        "import time, urllib.request\n"
        f"url = 'http://{service}.demo:8181/page'\n"
        "for _ in range(100):\n"
        "    try:\n"
        "        print(urllib.request.urlopen(url, timeout=5).read().decode())\n"
        "        break\n"
        "    except OSError:\n"
        "        time.sleep(0.3)\n"
    )
    assert on_claim(stage, "logs", ask).strip() == f"{page}1000"
    stage.kubectl("delete", "gpujob", "serves", "-n", "demo", "--timeout=240s")


def test_a_driver_that_can_not_start_costs_nothing(stage: Stage) -> None:
    """A Secret or a claim that is not there: the real kubelet and scheduler say so."""
    before = len(stage.ledger())
    missing = {"secretKeyRef": {"name": "nowhere", "key": "token"}}
    env = [{"name": "TOKEN", "valueFrom": missing}]
    claims = {"inputs": [{"claimName": "nowhere", "path": "in"}]}
    stage.kubectl("apply", "-f", "-", text=json.dumps(job("no-secret", "0", env=env)))
    stage.kubectl("apply", "-f", "-", text=json.dumps(job("no-claim", "0", data=claims)))
    for name, words in (("no-secret", 'secret "nowhere" not found'), ("no-claim", "nowhere")):
        eventually(stage, name, partial(says, words))
        stage.kubectl("delete", "gpujob", name, "-n", "demo", "--timeout=240s")

    assert len(stage.ledger()) == before


def says(words: str, found: Object) -> bool:
    """Whether the job's summary holds some words."""
    return words in condition(found, "Ready").get("message", "")


def test_an_image_that_is_not_there_costs_nothing(stage: Stage) -> None:
    """The drivers' image cannot be pulled: nothing is rented, and the job says why."""
    before = len(stage.ledger())
    # By the chart, because its policy takes no other image than it names.
    stage.install("--set=driver.image.repository=nowhere")
    try:
        stage.kubectl("apply", "-f", "-", text=json.dumps(job("no-image", "0")))
        eventually(stage, "no-image", partial(says, "localhost/nowhere:dev"))
        stage.kubectl("delete", "gpujob", "no-image", "-n", "demo", "--timeout=240s")
    finally:
        stage.install()

    assert len(stage.ledger()) == before
