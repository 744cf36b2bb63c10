"""The demo's story on a real cluster, and what it promises about pods, money and secrets."""

import base64
import copy
import hashlib
import json
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from tests.e2e.canary import (
    HOMES,
    WORK,
    Given,
    Secret,
    Sighting,
    known,
    leaks,
    search,
    spelt,
    unseen,
)
from tests.e2e.conftest import keep_heard
from tests.e2e.evidence import PYTHON, Evidence, fetch

import demo
from demo import Object, Stage, accounts, check, condition, play
from gpujob.core.api_tokens import token_of
from vastsim.images import IMAGES, Login

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


@dataclass
class Seen:
    """What was looked at while the story went on."""

    inside: Object = field(default_factory=dict)
    pod: Object = field(default_factory=dict)
    trains_driver: str = ""
    """The pod that ran the first job: an attempt before may have lost its offer to another job."""
    metrics_token: str = ""
    of_machines: Object = field(default_factory=dict)
    """The secrets of the machines that there had been: those of later ones are in no evidence."""


BOOTSTRAP_TOKEN = token_of(secrets.token_bytes(32))
PASSWORD = f'canary {secrets.token_hex(16)} "\\ö+/<&>=%'
"""Every character of it that an encoding changes."""
PRIVATE = "vastsim/private"

LOOK_SECONDS = 5
"""Between two looks at files while nothing changes."""

SECRETIVE = """
import hashlib, os, time
print(hashlib.sha256(os.environ["PASSWORD"].encode()).hexdigest(), flush=True)
time.sleep(20)
"""


def secret(name: str, namespace: str, **values: str) -> Object:
    """A Secret."""
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": values}


def login() -> Login:
    """What the simulator's registry asks for a private image."""
    found = IMAGES[PRIVATE].login
    assert found is not None
    return found


def pull_secret() -> Object:
    """The Secret with this login."""
    entry = {"username": login().user, "password": login().password}
    text = json.dumps({"auths": {login().registry: entry}})
    made = secret("registry", "canary", **{".dockerconfigjson": text})
    return made | {"type": "kubernetes.io/dockerconfigjson"}


def secretive() -> Object:
    """A GpuJob with a private image that is given a password, and shows its digest."""
    ref = {"secretKeyRef": {"name": "password", "key": "password"}}
    spec = {
        "image": PRIVATE,
        "imagePullSecret": {"name": "registry", "exposeToProvider": True},
        "command": ["python3", "-c", SECRETIVE],
        "env": [{"name": "PASSWORD", "valueFrom": ref}],
        "activeDeadlineSeconds": 120,
        "gpu": {"models": ["RTX 4090"]},
        "data": {"maxDownloadGB": 2, "maxUploadGB": 1},
        "cost": {"ceiling": "1.00"},
    }
    return {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": "secretive", "namespace": "canary"},
        "spec": spec,
    }


@pytest.fixture(scope="module")
def stage(cluster: Stage, heard: Path) -> Iterator[Stage]:
    """The cluster with the chart installed; all that can be logged is."""
    cluster.apply(secret("bootstrap", "gpujob-system", token=BOOTSTRAP_TOKEN))
    cluster.install("--set=logLevel=DEBUG", "--set=api.bootstrapSecret=bootstrap")
    try:
        yield cluster
        _uninstall(cluster)
    finally:
        keep_heard(cluster, heard)


def _uninstall(stage: Stage) -> None:
    """Last of all, in whatever order the tests ran: the release goes, then what it has finished.

    Nothing that is over waits for an operator; a job that still waits would.
    """
    stage.kubectl("delete", "gpujob", "too-cheap", "-n", "demo", "--timeout=240s")
    stage.helm("uninstall", "gpujob", "-n", "gpujob-system", "--wait", "--timeout=240s")
    names = {one["metadata"]["name"] for one in stage.get("gpujobs", "demo")}
    assert names == {"train", "overdue", "unlucky"}, "the kinds and the jobs are kept"
    stage.kubectl("delete", "namespace", "demo", "--timeout=240s")
    assert {one["state"] for one in stage.ledger()} == {"destroyed"}


@dataclass
class Api:
    """The HTTP API as installed."""

    authority: str
    token: str
    """Made by the documented command: reads one namespace."""


def await_tokens(stage: Stage, count: int) -> None:
    """Waits until each server knows so many tokens: each looks for itself."""

    def knows(pod: Object) -> bool:
        name = pod["metadata"]["name"]
        return f'"tokens": {count}' in stage.kubectl("logs", "-n", "gpujob-system", name)

    deadline = time.monotonic() + 240
    while not all(knows(pod) for pod in _servers(stage)) and time.monotonic() < deadline:
        time.sleep(0.5)


@pytest.fixture(scope="module")
def api(stage: Stage) -> Api:
    """The HTTP API, once each of its servers knows the token."""
    command = ("deployment/gpujob-server", "-n", "gpujob-system", "--", "/usr/bin/python3")
    make = ("-m", "gpujob", "token", "ci", "--namespaces", "demo", "--access", "read")
    done = subprocess.run(
        stage.command("kubectl", "exec", *command, *make),
        capture_output=True,
        text=True,
        check=True,
    )
    (token,) = re.findall(r"gpujob_[A-Za-z0-9_-]{48}", done.stderr)
    apply = ("apply", "--server-side", "--field-manager=token-ci", "-f", "-")
    stage.kubectl(*apply, text=done.stdout)
    (webhook,) = stage.get("validatingwebhookconfigurations", "")
    bundle = webhook["webhooks"][0]["clientConfig"]["caBundle"]

    await_tokens(stage, 1)
    return Api(base64.b64decode(bundle).decode(), token)


@pytest.fixture(scope="module")
def evidence(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Where everything that is seen is kept."""
    return Evidence(stage, tmp_path_factory.mktemp("evidence"))


@pytest.fixture(scope="module")
def seen(stage: Stage, api: Api, evidence: Evidence) -> Seen:
    """The story, with a look inside the running driver, and with a job that has a secret.

    Everything is gathered at once: other tests replace and delete.
    """
    found = Seen()
    told: list[dict[str, str]] = []
    due = 0.0

    def look(jobs: dict[str, Object]) -> None:
        nonlocal due
        reasons = {name: condition(job, "Ready").get("reason", "") for name, job in jobs.items()}
        if reasons.get("overdue") == "Running" and not found.inside:
            # Of all jobs it runs longest. And first of all: it runs now.
            driver = ("-n", "demo", demo.driver_of(jobs["overdue"]))
            found.inside = json.loads(stage.kubectl("exec", *driver, *PYTHON, PROBE))
            found.pod = json.loads(stage.kubectl("get", "pod", *driver, "-o", "json"))
        if jobs.get("train", {}).get("status", {}).get("attempts"):
            found.trains_driver = demo.driver_of(jobs["train"])
        if told[-1:] != [reasons] or time.monotonic() > due:
            told.append(reasons)
            evidence.look_inside()
            due = time.monotonic() + LOOK_SECONDS

    with evidence.watching():
        stage.namespace("canary")
        stage.apply(secret("password", "canary", password=PASSWORD))
        stage.apply(pull_secret())
        stage.apply(secretive())
        play(stage, look)
    found.metrics_token = _may_read_metrics(stage)
    evidence.answers(api.authority, _asks(stage, evidence, api, found.metrics_token))
    found.of_machines = stage.simulator("secrets")
    evidence.gather()
    return found


def test_every_job_comes_to_its_end_and_nothing_is_left(stage: Stage, seen: Seen) -> None:
    """Outcomes, machines, money and the deadline are as the demo promises."""
    check(stage)


def test_our_figure_is_just_above_the_ledger(stage: Stage, seen: Seen) -> None:
    """ledger <= ours <= ledger + rate x lag cap + reserved traffic per attempt, for every job."""
    rows = accounts(stage)

    assert [fault for row in rows for fault in row.faults()] == []
    assert sum(row.attempts for row in rows) == 4


OTHERS = {
    "controller": ("gpujob-system", "app.kubernetes.io/component=controller"),
    "server": ("gpujob-system", "app.kubernetes.io/component=server"),
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
    """Not root, no capability, no new privileges, seccomp on, a root that cannot be written."""
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
        assert inside["tokens"]


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
    log = stage.kubectl("logs", "-n", "demo", seen.trains_driver)
    lines = [line for line in log.splitlines() if not line.startswith("gpujob:")]
    epochs = [int(line.split()[1].rstrip(":")) for line in lines if line.startswith("epoch")]

    assert epochs == sorted(set(epochs))
    assert lines[-1].startswith("done after")
    assert float(lines[-1].split()[-1]) > 0.9


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
    waiting = stage.command("kubectl", "rollout", "status", *server, "--timeout=240s")
    reviews = 0
    with subprocess.Popen(waiting, stdout=subprocess.DEVNULL) as rollout:
        while rollout.poll() is None:
            stage.kubectl("create", "--dry-run=server", "-f", "-", text=manifest)
            reviews += 1

    assert rollout.returncode == 0
    assert reviews > 1


def test_deleting_the_namespace_ends(stage: Stage, seen: Seen) -> None:
    """With a job running in it, too; it goes once nothing is leased."""
    manifest = (demo.PARTS / "train.yaml").read_text().replace("namespace: demo", "namespace: left")
    stage.namespace("left")
    stage.kubectl("apply", "-f", "-", text=manifest)
    running = "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=Running"
    stage.kubectl("wait", "-n", "left", "--timeout=240s", running, "gpujob/train")
    stage.kubectl("delete", "namespace", "left", "--timeout=240s")

    states = [one["state"] for one in stage.ledger()]
    assert states == ["destroyed"] * 6


def _servers(stage: Stage) -> list[Object]:
    return [
        pod
        for pod in stage.get("pods", "gpujob-system")
        if pod["metadata"]["name"].startswith("gpujob-server-")
        and "deletionTimestamp" not in pod["metadata"]
    ]


def test_the_http_api_answers_whoever_has_a_token(stage: Stage, seen: Seen, api: Api) -> None:
    """As installed: a token reads its namespace, and no more."""

    def ask(path: str, token: str) -> tuple[int, str]:
        (answer,) = fetch(stage, api.authority, [(API + path, token)])
        return answer.status, answer.text

    jobs = "/v1/namespaces/demo/jobs"
    status, text = ask(jobs, api.token)
    assert status == 200, text
    names = {one["metadata"]["name"] for one in json.loads(text)["items"]}
    assert names == {"train", "too-cheap", "overdue", "unlucky"}
    status, text = ask(f"{jobs}/train/log", api.token)
    assert status == 200
    assert text.strip() == stage.kubectl("logs", "-n", "demo", seen.trains_driver).strip()
    assert "done after" in text
    status, text = ask(f"{jobs}/too-cheap/decision", api.token)
    assert (status, json.loads(text)["reason"]) == (200, "CeilingExceeded")
    assert ask("/v1/namespaces/demo/machines", api.token) == (200, '{"items":[]}')
    assert ask("/v1/jobs", api.token)[0] == 403
    assert ask("/v1/namespaces/kube-system/jobs", api.token)[0] == 403
    assert ask(jobs, "")[0] == 401
    assert ask(jobs, api.token[:-1])[0] == 401
    logs = "".join(
        stage.kubectl("logs", "-n", "gpujob-system", pod["metadata"]["name"])
        for pod in _servers(stage)
    )
    assert "token ci" in logs


@pytest.mark.usefixtures("seen")
def test_no_route_of_the_api_as_installed_lets_anybody_in(stage: Stage, api: Api) -> None:
    """Each route and method that it says it has: no good token is 401, one of another scope 403.

    Who may, is answered: here what a job would cost, which the server asks the controller.
    """
    expired = token_of(secrets.token_bytes(32))
    held = {
        "sha256": hashlib.sha256(expired.encode()).hexdigest(),
        "namespaces": ["*"],
        "access": "write",
        "expires": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(),
    }
    record = base64.b64encode(json.dumps(held).encode()).decode()
    secret = ("secret", "gpujob-api-tokens", "-n", "gpujob-system", "--type=merge", "-p")
    stage.kubectl("patch", *secret, json.dumps({"data": {"old": record}}))
    await_tokens(stage, 2)
    (served,) = fetch(stage, api.authority, [(f"{API}/openapi.json", api.token)])
    routes = [
        f"{method.upper()} {API}{path.replace('{namespace}', 'default').replace('{name}', 'train')}"
        for path, operations in json.loads(served.text)["paths"].items()
        for method in operations
        if method != "parameters"
    ]
    asked = {
        "none": ("", 401),
        "malformed": ("a b", 401),
        "wrong": (token_of(secrets.token_bytes(32)), 401),
        "expired": (expired, 401),
        "another scope": (api.token, 403),
    }
    asks = [(route, name) for route in routes for name in asked]
    job = {"metadata": {"name": "train"}, "spec": stage.get("gpujobs", "demo")[0]["spec"]}
    answers = fetch(
        stage, api.authority, [(route, asked[name][0]) for route, name in asks], body=job
    )
    estimate = f"POST {API}/v1/namespaces/demo/estimates"
    (told,) = fetch(stage, api.authority, [(estimate, BOOTSTRAP_TOKEN)], body=job)
    stage.kubectl("patch", *secret, json.dumps({"data": {"old": None}}))

    assert len(routes) >= 13
    otherwise = [
        (*ask, answer.status)
        for ask, answer in zip(asks, answers, strict=True)
        if answer.status != asked[ask[1]][1]
    ]
    assert otherwise == []
    assert told.status == 200, told.text
    assert json.loads(told.text)["offersMatching"] > 0


# --- The canary -------------------------------------------------------------------------------

API = "https://gpujob-server.gpujob-system.svc:8444"


@dataclass
class Searched:
    """What came of the search through everything that was seen."""

    secrets: list[Secret]
    sightings: list[Sighting]


@pytest.fixture(scope="module")
def searched(stage: Stage, seen: Seen, api: Api, evidence: Evidence) -> Searched:
    """Every secret was sought in everything that was seen over the whole story."""
    told = seen.of_machines
    given = Given(
        account_key=stage.token,
        bootstrap_token=BOOTSTRAP_TOKEN,
        api_token=api.token,
        metrics_token=seen.metrics_token,
        password=PASSWORD,
        registry_password=login().password,
        instance_keys=tuple(told["instance_api_keys"]),
        notebook_tokens=tuple(told["jupyter_tokens"]),
    )
    began = time.monotonic()
    everything = evidence.seen()
    all_secrets = known(given, everything)
    found = Searched(all_secrets, search(all_secrets, everything))
    size = sum(map(len, everything.values())) / 1e6
    print(
        f"{len(all_secrets)} secrets in {len(spelt(all_secrets))} spellings sought in "
        f"{len(everything)} files of {size:.1f} MB within {time.monotonic() - began:.1f} s"
    )
    return found


def _may_read_metrics(stage: Stage) -> str:
    """Makes an account that may read the controllers' metrics, and returns a token of it."""
    rbac = "rbac.authorization.k8s.io"
    role = {"apiGroup": rbac, "kind": "ClusterRole", "name": "metrics"}
    subject = {"kind": "ServiceAccount", "name": "metrics", "namespace": "canary"}
    named = {"metadata": {"name": "metrics"}}
    rules = [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    stage.kubectl("create", "serviceaccount", "metrics", "-n", "canary")
    stage.apply(
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "rules": rules} | named,
    )
    stage.apply(
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", "roleRef": role}
        | {"subjects": [subject]}
        | named
    )
    return stage.kubectl("create", "token", "metrics", "-n", "canary").strip()


def _asks(
    stage: Stage, evidence: Evidence, api: Api, metrics_token: str
) -> list[tuple[str, str, str]]:
    """Returns all that can be read of the operator's listeners: place, address and token."""
    driver_token = next(
        data.decode()
        for place, data in evidence.seen().items()
        if place.endswith("/token") and "/gpujob.dev/" in place
    )
    (told,) = fetch(stage, api.authority, [(f"{API}/openapi.json", BOOTSTRAP_TOKEN)])
    jobs = [("demo", name) for name in demo.JOBS] + [("canary", "secretive")]
    paths = {
        path.format(namespace=namespace, name=name)
        for path, methods in json.loads(told.text)["paths"].items()
        for namespace, name in jobs
        if "get" in methods
    }
    asks = [
        (f"answers/api/{who}{path}/-", API + path, token)
        for who, token in (("all", BOOTSTRAP_TOKEN), ("ci", api.token))
        for path in sorted(paths)
    ]
    asks += [
        (f"answers/api/{who}", f"{API}/v1/jobs", token)
        for who, token in (("driver", driver_token), ("metrics", metrics_token))
    ]
    for pod in _pods(stage, "controller") + _pods(stage, "server"):
        name, url = pod["metadata"]["name"], f"http://{pod['status']['podIP']}:8081"
        asks.append((f"metrics/{name}", f"{url}/metrics", metrics_token))
        asks.append((f"answers/{name}/metrics-of-a-driver", f"{url}/metrics", driver_token))
        asks += [(f"answers/{name}/{path}", f"{url}/{path}", "") for path in ("healthz", "readyz")]
    return asks


def test_no_secret_is_where_it_does_not_belong(searched: Searched) -> None:
    """In logs, objects, events, metrics, requests, process lists, files, answers; in no form."""
    found = leaks(searched.secrets, searched.sightings)

    assert not found, "\n".join(f"{one.place}: {one.secret}, {one.form}" for one in found)


def test_every_secret_is_seen_where_it_belongs(searched: Searched) -> None:
    """Whoever looked there was not blind; that goes for their neighbours, too."""
    assert unseen(searched.secrets, searched.sightings) == []


def test_everything_was_looked_at(searched: Searched, evidence: Evidence) -> None:
    """What is known to stand at a place was seen there."""
    everything = evidence.seen()

    def stands(words: str, pattern: str) -> bool:
        found = [data for place, data in everything.items() if fnmatchcase(place, pattern)]
        return any(words.encode() in data for data in found)

    missing = [
        f"{pattern}: {words}"
        for pattern, words in (
            ("logs/gpujob-system/*/controller", '"level": "debug"'),
            ("logs/gpujob-system/*/server", '"level": "debug"'),
            ("logs/demo/train-0-*-driver/driver", "done after"),
            ("logs/canary/*/driver", hashlib.sha256(PASSWORD.encode()).hexdigest()),
            ("objects/v1/events/demo/*", "HostLost"),
            ("objects/events.k8s.io/v1/events/demo/*", "HostLost"),
            ("objects/gpujob.dev/v1alpha1/gpunodes/demo/*", "sshPublicKey"),
            ("changes/gpujob.dev/v1alpha1/gpunodes", '"MODIFIED"'),
            ("changes/v1/pods", '"MODIFIED"'),
            ("release", "VAST_API_KEY"),
            ("processes/*/*-driver/cmdline", "gpujob\0driver"),
            ("processes/machines/cmdline", "/supervise"),
            ("files/demo/*-driver/etc/gpujob/ssh/*", "OPENSSH PRIVATE KEY"),
            (f"{HOMES}/.ssh/authorized_keys", "ssh-ed25519"),
            (f"{WORK}/runs/*/stdout*", "epoch"),
            ("requests/targets", "PUT /api/v0/asks/"),
            ("requests/bodies", "WATCHDOG"),
            ("metrics/gpujob-*", "gpujob_credit_usd"),
            ("metrics/*/cadvisor", "container_"),
            ("answers/api/all/v1/jobs/-", "secretive"),
            ("answers/api/all/v1/namespaces/demo/jobs/train/log/-", "done after"),
            ("answers/api/all/v1/namespaces/demo/watch/jobs/-", "event: listed"),
            ("answers/api/ci/v1/jobs/-", "403"),
            ("answers/*/readyz", "ok"),
        )
        if not stands(words, pattern)
    ]
    assert missing == []


LEAK = """
import glob, json, os, subprocess, sys, urllib.error, urllib.request
told = json.load(sys.stdin)
open("/proc/1/fd/2", "w").write(told["log"] + "\\n")
for method, path, body in (("GET", told["target"], None), ("PUT", "/api/v0/asks/1/", told["body"])):
    data = None if body is None else body.encode()
    request = urllib.request.Request("http://127.0.0.1:8000" + path, data=data, method=method)
    try:
        urllib.request.urlopen(request)
    except urllib.error.HTTPError:
        pass
(machines,) = glob.glob("/tmp/vastsim-*")
os.mkdir(machines + "/1")
open(machines + "/1/leak", "w").write(told["file"])
command = ["/usr/bin/python3", "-c", "import time; time.sleep(60)", told["command"]]
marked = os.environ | {"CONTAINER_ID": "1"}
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
subprocess.Popen(command, env=marked, start_new_session=True, **quiet)
"""


def test_a_leak_is_found(stage: Stage, searched: Searched, tmp_path: Path) -> None:
    """Each secret is let out at another place, in another form, and found in another look."""
    values = {secret.name: secret.value.decode(errors="replace") for secret in searched.secrets}
    account, password = values["account's key"], values["job's password"]
    driver = next(name for name in values if "/gpujob.dev/" in name)
    key = next(name for name in values if name.startswith("objects/v1/secrets/demo/train-0-"))
    note = base64.b64encode(b"it failed: " + values[driver].encode()).decode()
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "leak", "namespace": "canary"},
        "involvedObject": {"kind": "GpuJob", "name": "secretive", "namespace": "canary"},
        "message": note,
    }
    shown = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "leak", "namespace": "canary"},
        "data": {"row": values["notebook token 1"]},
    }
    told = {
        "log": base64.b64encode(f"key={account}".encode()).decode(),
        "target": f"/api/v0/users/current?api_key={account}",
        "body": json.dumps({"onstart": f"export PASSWORD='{password}'"}),
        "file": password.encode().hex(),
        "command": values[key].splitlines()[2],
    }
    pod = ("exec", "-i", "-n", "vastsim", "vastsim", *PYTHON)
    stage.kubectl(*pod, LEAK, text=json.dumps(told))
    stage.apply(event)
    stage.apply(shown)
    another = Evidence(stage, tmp_path)
    another.gather()
    found = leaks(searched.secrets, search(searched.secrets, another.seen()))

    wanted = {
        Sighting("logs/vastsim/vastsim/vastsim", "account's key", "base64"),
        Sighting("objects/v1/events/canary/leak", driver, "base64"),
        Sighting("objects/events.k8s.io/v1/events/canary/leak", driver, "base64"),
        Sighting("objects/v1/configmaps/canary/leak", "notebook token 1", "raw"),
        Sighting("requests/targets", "account's key", "raw"),
        Sighting("requests/bodies", "job's password", "json"),
        Sighting("processes/machines/cmdline", key, "raw"),
        Sighting("machines/1/leak", "job's password", "hex"),
    }
    assert wanted - set(found) == set()
