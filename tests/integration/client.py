"""The API server over one connection that is kept.

Tests wait by looking again and again, and each makes a namespace and ends it. A kubectl for each
such request costs 65 ms of processor time, and those together were most of what the integration
tests used.
"""

import base64
import http.client
import json
import socket
import ssl
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import yaml

Object = dict[str, Any]

CORE = (
    "configmaps",
    "events",
    "pods",
    "resourcequotas",
    "secrets",
    "serviceaccounts",
    "services",
)
PATHS = {
    **dict.fromkeys(CORE, "/api/v1"),
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "gpubudgets": "/apis/gpujob.dev/v1alpha1",
    "gpujobprofiles": "/apis/gpujob.dev/v1alpha1",
    "gpujobs": "/apis/gpujob.dev/v1alpha1",
    "gpunodes": "/apis/gpujob.dev/v1alpha1",
    "leases": "/apis/coordination.k8s.io/v1",
}
"""Where each kind is found, by its plural."""


def connect(kubeconfig: Path) -> tuple[http.client.HTTPConnection, dict[str, str]]:
    """Returns a connection as the user of a kubeconfig, and the headers that show who that is."""
    config = yaml.safe_load(kubeconfig.read_text())
    user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
    url = urlsplit(cluster["server"])
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    if url.scheme == "http":
        return http.client.HTTPConnection(str(url.hostname), url.port, timeout=30), headers
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    if "client-certificate-data" in user:
        parts = [base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key")]
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(b"\n".join(parts))
            pair.flush()
            context.load_cert_chain(pair.name)
    line = http.client.HTTPSConnection(str(url.hostname), url.port, context=context, timeout=30)
    return line, headers


def path_of(kind: str, name: str, namespace: str) -> str:
    """Returns the path of an object by the plural of its kind."""
    return f"{PATHS[kind]}/namespaces/{namespace}/{kind}/{name}"


class NoAnswer(AssertionError):
    """The API server did not answer: nothing is known, not even that there is nothing."""


class Client:
    """Reads objects and changes some, for any number of threads."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._lock = threading.Lock()
        self._line: http.client.HTTPConnection | None = None
        self._headers: dict[str, str] = {}

    def get(self, kind: str, name: str, namespace: str) -> Object | None:
        """Returns an object by its kind, singular or plural; None if there is none or no answer."""
        kind = kind if kind.endswith("s") else f"{kind}s"
        if kind == "namespaces":
            return self._read(f"/api/v1/namespaces/{name}")
        return self._read(path_of(kind, name, namespace))

    def items(self, kinds: str, namespace: str = "", labels: str = "") -> list[Object]:
        """Returns the objects of kinds, plural and divided by commas; `NoAnswer` if it cannot."""
        found: list[Object] = []
        for kind in kinds.split(","):
            listed = self.listing(kind, namespace, labels)
            if listed is None:
                raise NoAnswer(f"The API server did not list the {kind} of {namespace or 'all'}.")
            found += listed
        return found

    def listing(self, kind: str, namespace: str = "", labels: str = "") -> list[Object] | None:
        """Returns the objects of a kind; None if there is no answer."""
        where = f"/namespaces/{namespace}" if namespace else ""
        chosen = f"?labelSelector={quote(labels)}" if labels else ""
        found = self._read(f"{PATHS[kind]}{where}/{kind}{chosen}")
        return None if found is None else list(found["items"])

    def apply(self, manifest: Object) -> None:
        """Applies an object of a namespace, as `kubectl apply --server-side` would."""
        meta = manifest["metadata"]
        path = path_of(f"{manifest['kind'].lower()}s", meta["name"], meta["namespace"])
        query = "fieldManager=tests&fieldValidation=Strict&force=true"
        yaml_patch = "application/apply-patch+yaml"
        status, answer = self.send("PATCH", f"{path}?{query}", manifest, yaml_patch)
        assert status in (200, 201), answer

    def dry_run(self, manifest: Object) -> tuple[Object, str]:
        """Returns what the API server would store for an object; or nothing, and why not."""
        kind, namespace = f"{manifest['kind'].lower()}s", manifest["metadata"]["namespace"]
        path = f"{PATHS[kind]}/namespaces/{namespace}/{kind}"
        status, answer = self.send("POST", f"{path}?dryRun=All&fieldValidation=Strict", manifest)
        return (answer, "") if status == 201 else ({}, str(answer.get("message", status)))

    def delete(self, kind: str, name: str, namespace: str) -> None:
        """Deletes an object, which may be gone already."""
        status, answer = self.send("DELETE", path_of(kind, name, namespace))
        assert status in (200, 202, 404), answer

    def token(self, account: str, namespace: str, **spec: object) -> str:
        """Returns a new token of a service account."""
        path = f"{path_of('serviceaccounts', account, namespace)}/token"
        status, answer = self.send("POST", path, {"spec": spec})
        assert status == 201, answer
        return str(answer["status"]["token"])

    def __del__(self) -> None:
        """Ends the connection with its last reader."""
        self._close()

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _read(self, path: str) -> Object | None:
        status, found = self.send("GET", path)
        return found if status == 200 else None

    def send(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json"
    ) -> tuple[int, Object]:
        """Sends one request and returns status and answer; status 0 if there is no answer."""
        with self._lock:
            # A connection that was kept may be that of an API server which has ended since.
            for _ in range(2):
                try:
                    if self._line is None:
                        self._line, self._headers = connect(self._kubeconfig)
                    text = None if body is None else json.dumps(body)
                    headers = self._headers | {"Content-Type": kind}
                    self._line.request(method, path, text, headers)
                    with self._line.getresponse() as answer:
                        raw, status = answer.read(), answer.status
                    return status, json.loads(raw) if raw.startswith(b"{") else {}
                except (OSError, http.client.HTTPException):
                    self._close()
            return 0, {}


class Watch:
    """The objects of a kind in all namespaces, as the API server tells of them."""

    def __init__(self, kubeconfig: Path, kind: str, labels: str) -> None:
        self.objects: dict[str, Object] | None = None
        """By their uids; replaced and never changed. None until they were listed."""
        self._kubeconfig = kubeconfig
        self._path, self._labels = f"{PATHS[kind]}/{kind}", labels
        self._news = threading.Event()
        self._stopped = threading.Event()
        self._line: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it, and whoever waits for it."""
        self._stopped.set()
        self._news.set()
        if (line := self._line) is not None and line.sock is not None:
            with suppress(OSError):
                line.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=30)

    def wait(self, seconds: float) -> None:
        """Waits for news, at most so long."""
        self._news.wait(seconds)
        self._news.clear()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except (OSError, http.client.HTTPException, ValueError):
                # An API server that has ended, or said nothing for long: it is asked again.
                self._stopped.wait(0.5)

    def _follow(self) -> None:
        self._line, headers = connect(self._kubeconfig)
        try:
            if self._stopped.is_set():
                return
            with self._ask(headers, {}) as answer:
                listed = json.loads(answer.read())
            if answer.status != 200:
                raise ValueError(listed)
            self._tell({one["metadata"]["uid"]: one for one in listed["items"]})
            since = listed["metadata"]["resourceVersion"]
            with self._ask(headers, {"watch": "1", "resourceVersion": since}) as events:
                for raw in events:
                    self._hear(json.loads(raw))
        finally:
            self._line.close()

    def _ask(self, headers: dict[str, str], query: dict[str, str]) -> http.client.HTTPResponse:
        assert self._line is not None, "it is connected"
        chosen = urlencode({"labelSelector": self._labels} | query)
        self._line.request("GET", f"{self._path}?{chosen}", headers=headers)
        return self._line.getresponse()

    def _hear(self, event: Object) -> None:
        if event["type"] == "ERROR":
            raise ValueError(event)
        uid = event["object"]["metadata"]["uid"]
        others = {known: one for known, one in (self.objects or {}).items() if known != uid}
        self._tell(others if event["type"] == "DELETED" else {**others, uid: event["object"]})

    def _tell(self, objects: dict[str, Object]) -> None:
        self.objects = objects
        self._news.set()
