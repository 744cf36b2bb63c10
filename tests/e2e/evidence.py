"""All that can be seen of a stage, in files by place: logs, objects, requests, processes, answers.

| place | what |
|---|---|
| `logs/NAMESPACE/POD/CONTAINER` | by the API, also of the container before: `.previous` |
| `logs/node/…` | of the cluster's own processes, with its audit log, and the kubelet's files |
| `objects/VERSION/RESOURCE/NAMESPACE/NAME` | every object of every resource |
| `changes/VERSION/RESOURCE` | every state of every object while it was watched; not of Secrets |
| `release` | what helm tells of the release |
| `processes/NAMESPACE/POD/…` | of all processes of a pod: `cmdline`, `environ` |
| `processes/machines/…`, `node` | of those on rented machines, and of the cluster's own |
| `processes/others/cmdline` | of whatever else runs on this machine |
| `files/NAMESPACE/POD/PATH` | all files of a container but its image's, which it cannot write |
| `machines/NUMBER/PATH` | all files of a rented machine |
| `requests/…` | what the simulator was sent: `targets`, `authorization`, `headers`, `bodies` |
| `metrics/…`, `answers/…` | of the listeners |
"""

import contextlib
import http.client
import io
import json
import re
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from demo import Object, Stage
from localcluster.node import Node
from localcluster.paths import environment

RECORD = "/tmp/requests"
"""Where the simulator is to write down what it is sent: `--record`."""
SAMPLE_SECONDS = 0.2
OF_MACHINES = (b"CONTAINER_ID=", b"SSH_CONNECTION=")
"""In the environment of what the provider has started on a machine, and of what came over SSH."""
PYTHON = ("--", "/usr/bin/python3", "-c")

FILES = """
import io, os, stat, sys, tarfile
out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|")
for line in open("/proc/self/mountinfo"):
    place = line.split()[4]
    if place == "/" or place.startswith(("/proc", "/sys", "/dev")) and place not in (
        "/dev/termination-log", "/dev/shm"
    ):
        continue
    names = [place]
    if os.path.isdir(place):
        names = [os.path.join(at, name) for at, _, found in os.walk(place) for name in found]
    for name in names:
        try:
            if not stat.S_ISREG(os.lstat(name).st_mode):
                continue
            with open(name, "rb") as stream:
                data = stream.read()
        except FileNotFoundError:
            continue
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        out.addfile(entry, io.BytesIO(data))
out.close()
"""

FETCH = """
import json, ssl, sys, urllib.error, urllib.request
told = json.load(sys.stdin)
trusted = ssl.create_default_context(cadata=told["authority"])
def fetch(what, token):
    head = {"Authorization": "Bearer " + token} if token else {}
    method, _, url = what.rpartition(" ")
    body = json.dumps(told["body"]).encode() if method == "POST" else None
    if body:
        head["Content-Type"] = "application/json"
    try:
        request = urllib.request.Request(url, body, head, method=method or "GET")
        answer = urllib.request.urlopen(request, context=trusted, timeout=20)
    except urllib.error.HTTPError as refused:
        answer = refused
    data = b""
    for line in answer:
        data += line
        if line.startswith(b"event: listed"):
            # From here on it waits for what comes.
            break
    return answer.status, str(answer.headers), data.decode("latin-1")
print(json.dumps([fetch(*one) for one in told["asks"]]))
"""


def touch_on_machines(stage: Stage, path: str) -> None:
    """Makes a file on every machine that runs, each of which has a root of its own."""
    each = f"for root in /proc/[0-9]*/root; do [ ! -e $root/.launch ] || touch $root{path}; done"
    stage.kubectl("exec", "-n", "vastsim", "vastsim", "--", "/bin/sh", "-c", each)


@dataclass(frozen=True)
class Answer:
    """What a listener in the cluster has answered."""

    status: int
    headers: str
    body: bytes

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()


def fetch(
    stage: Stage, authority: str, asks: Iterable[tuple[str, str]], body: object = None
) -> list[Answer]:
    """Asks listeners from a pod in the cluster; `asks` are addresses with bearer tokens, or "".

    Before an address a method may stand, `POST https://…`, which sends the body.
    """
    pod = ("exec", "-i", "-n", "vastsim", "vastsim", *PYTHON, FETCH)
    told = json.dumps({"authority": authority, "asks": list(asks), "body": body})
    answers = json.loads(stage.kubectl(*pod, text=told))
    return [Answer(status, headers, body.encode("latin-1")) for status, headers, body in answers]


class Evidence:
    """What was seen of a stage."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self._processes: dict[str, set[bytes]] = defaultdict(set)
        self._looked_into: set[str] = set()

    def save(self, place: str, data: bytes) -> None:
        """Keeps what was seen at a place; what was seen there before stays."""
        path = self.folder / place
        number = 2
        while path.exists():
            if path.read_bytes() == data:
                return
            path = self.folder / f"{place}~{number}"
            number += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def seen(self) -> dict[str, bytes]:
        """Returns everything, by place."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}

    # --- While it goes on ---------------------------------------------------------------------

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Keeps every state of every object, and looks at all processes again and again."""
        ended = threading.Event()
        with _api(self.stage) as api:
            threads = [threading.Thread(target=self._sample, args=(ended,))]
            for path in _resources(api):
                if not path.endswith("/secrets"):
                    threads.append(threading.Thread(target=self._follow, args=(api, path)))
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                ended.set()
        for thread in threads:
            thread.join()

    def _follow(self, api: str, path: str) -> None:
        target = self.folder / "changes" / _place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Ends with the way to the API server.
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(f"{api}{path}?watch=true") as stream,
            target.open("wb") as file,
        ):
            while data := stream.read1(1 << 16):
                file.write(data)

    def _sample(self, ended: threading.Event) -> None:
        while not ended.wait(SAMPLE_SECONDS):
            self.processes()

    def look_inside(self) -> None:
        """Looks at the files of all machines, and of drivers that run and were not looked at."""
        self._machines_and_requests()
        for pod in _items(self.stage, "pods", "-A", "-l", "app.kubernetes.io/component=driver"):
            uid = pod["metadata"]["uid"]
            if pod["status"].get("phase") == "Running" and uid not in self._looked_into:
                self._looked_into.add(uid)
                self._files(pod)

    # --- At its end ---------------------------------------------------------------------------

    def gather(self) -> None:
        """Looks at all that is there now."""
        with _api(self.stage) as api:
            self._logs(api)
            self._objects(api)
            for place, path in _figures(api).items():
                self.save(f"metrics/{place}", _get(api, path))
        self.save(
            "release", self.stage.helm("get", "all", "gpujob", "-n", "gpujob-system").encode()
        )
        self._machines_and_requests()
        for pod in self.stage.get("pods", "gpujob-system"):
            if "deletionTimestamp" not in pod["metadata"]:
                self._files(pod)
        self.processes()
        self._save_processes()

    def _logs(self, api: str) -> None:
        for pod in _items(self.stage, "pods", "-A"):
            namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
            for status in pod["status"].get("containerStatuses", []):
                container = status["name"]
                path = f"/api/v1/namespaces/{namespace}/pods/{name}/log?container={container}"
                place = f"logs/{namespace}/{name}/{container}"
                self.save(place, _get(api, path))
                if status["restartCount"]:
                    self.save(f"{place}.previous", _get(api, f"{path}&previous=true"))
        if isinstance(self.stage.cluster, Node):
            for folder, place in (("log", "node"), ("podlogs", "node/pods")):
                top = self.stage.cluster.state / folder
                for file in filter(Path.is_file, top.rglob("*")):
                    self.save(f"logs/{place}/{file.relative_to(top)}", file.read_bytes())

    def _objects(self, api: str) -> None:
        for path in _resources(api):
            for item in json.loads(_get(api, path))["items"]:
                meta = item["metadata"]
                place = f"{_place(path)}/{meta.get('namespace', '-')}/{meta['name']}"
                self.save(f"objects/{place}", json.dumps(item, ensure_ascii=False).encode())

    def _files(self, pod: Object) -> None:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        for path, data in _files_in(self.stage, namespace, name):
            self.save(f"files/{namespace}/{name}/{path}", data)

    def _machines_and_requests(self) -> None:
        """All of them are in the simulator's container."""
        for path, data in _files_in(self.stage, "vastsim", "vastsim"):
            if machine := re.fullmatch(r"tmp/vastsim-[^/]+/(\d+/.+)", path):
                self.save(f"machines/{machine[1]}", data)
            elif f"/{path}" == RECORD:
                self._requests(data)
            else:
                self.save(f"files/vastsim/vastsim/{path}", data)

    def _requests(self, record: bytes) -> None:
        parts: dict[str, list[str]] = defaultdict(list)
        for line in record.splitlines():
            told = json.loads(line)
            parts["targets"].append(f"{told['method']} {told['target']}")
            parts["bodies"].append(told["body"])
            for name, value in told["headers"]:
                part = "authorization" if name == "authorization" else "headers"
                parts[part].append(f"{name}: {value}")
        for name, lines in parts.items():
            # The record only grows: the last look holds all the others.
            path = self.folder / "requests" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes("\n".join(lines).encode("latin-1"))

    def processes(self) -> None:
        """Looks at all processes of this machine: the node's, its pods' and their machines'."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                owner = self._owner((entry / "cgroup").read_text())
                command = (entry / "cmdline").read_bytes()
                if owner != "others":
                    variables = (entry / "environ").read_bytes()
                    if any(name in variables for name in OF_MACHINES):
                        owner = "machines"
                    self._processes[f"{owner}/environ"].add(variables)
                self._processes[f"{owner}/cmdline"].add(command)

    def _owner(self, cgroup: str) -> str:
        """Returns whose a process is: a pod's uid, the node, or others of this machine."""
        # The last one is the innermost: this machine may itself be a pod.
        if pods := re.findall(r"pod([0-9a-f]{8}[0-9a-f_-]{28})", cgroup):
            return str(pods[-1]).replace("_", "-")
        return "node" if f"gpujob-{self.stage.name}" in cgroup else "others"

    def _save_processes(self) -> None:
        pods = {
            pod["metadata"]["uid"]: f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            for pod in _items(self.stage, "pods", "-A")
        }
        for place, found in self._processes.items():
            owner, _, part = place.partition("/")
            self.save(f"processes/{pods.get(owner, owner)}/{part}", b"\n".join(sorted(found)))

    def answers(self, authority: str, asks: Iterable[tuple[str, str, str]]) -> list[Answer]:
        """Keeps what listeners answer; `asks` are a place, an address and a bearer token each."""
        places, urls, tokens = zip(*asks, strict=True)
        found = fetch(self.stage, authority, zip(urls, tokens, strict=True))
        for place, answer in zip(places, found, strict=True):
            self.save(place, f"{answer.status}\n{answer.headers}".encode() + answer.body)
        return found


# --- The cluster ------------------------------------------------------------------------------


@contextlib.contextmanager
def _api(stage: Stage) -> Iterator[str]:
    """Yields an address at which the API server answers its administrator."""
    command = stage.command("kubectl", "proxy", "--port=0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as proxy:
        assert proxy.stdout is not None, "asked for as a pipe"
        try:
            port = proxy.stdout.readline().strip().rpartition(":")[2]
            yield f"http://127.0.0.1:{int(port)}"
        finally:
            proxy.kill()


def _get(api: str, path: str) -> bytes:
    with urllib.request.urlopen(f"{api}{path}", timeout=60) as answer:
        found: bytes = answer.read()
        return found


def _resources(api: str) -> list[str]:
    """Returns the path of every resource that can be listed, in each of its versions."""
    groups = json.loads(_get(api, "/apis"))["groups"]
    versions = [f"/apis/{one['groupVersion']}" for group in groups for one in group["versions"]]
    return [
        f"{version}/{resource['name']}"
        for version in ("/api/v1", *versions)
        for resource in json.loads(_get(api, version))["resources"]
        if "list" in resource["verbs"]
    ]


def _place(path: str) -> str:
    """`/api/v1/pods` is v1/pods, `/apis/apps/v1/deployments` is apps/v1/deployments."""
    return path.split("/", 2)[2]


def _figures(api: str) -> dict[str, str]:
    """Returns by place what the cluster's own listeners tell in figures."""
    nodes = [one["metadata"]["name"] for one in json.loads(_get(api, "/api/v1/nodes"))["items"]]
    kubelet = {f"{node}/kubelet": f"/api/v1/nodes/{node}/proxy/metrics" for node in nodes}
    parts = {
        f"{node}/{part}": f"/api/v1/nodes/{node}/proxy/metrics/{part}"
        for node in nodes
        for part in ("cadvisor", "probes", "resource")
    }
    return {"api-server": "/metrics"} | kubelet | parts


def _items(stage: Stage, *what: str) -> list[Object]:
    items: list[Object] = json.loads(stage.kubectl("get", *what, "-o", "json"))["items"]
    return items


def _files_in(stage: Stage, namespace: str, pod: str) -> list[tuple[str, bytes]]:
    command = stage.command("kubectl", "exec", "-n", namespace, pod, *PYTHON, FILES)
    done = subprocess.run(command, capture_output=True, env=environment())
    if done.returncode != 0:
        # A driver may end while it is looked at; what must be seen of it is asked for elsewhere.
        assert b"Permission" not in done.stderr, done.stderr.decode()
        return []
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as found:
        return [
            (entry.name.lstrip("/"), stream.read())
            for entry in found
            if (stream := found.extractfile(entry)) is not None
        ]
