"""A mutating webhook as platforms have them: it changes new pods, or refuses them."""

import base64
import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.authority import certificate, listening
from tests.integration.parts import Kubectl, Object, eventually


class Refusal(Exception):
    """The pod is refused with these words."""


Change = Callable[[Object], None]
"""Changes a pod in place; may raise Refusal."""


@contextmanager
def injecting(kubectl: Kubectl, namespace: str, change: Change, *unless: Object) -> Iterator[None]:
    """Changes each new pod of a namespace, unless it has labels by which it opts out."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = json.dumps(_answered(body, change)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    made = certificate("127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = listening(made).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    where = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    authority = base64.b64encode(made.authority.encode()).decode()
    manifest = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": f"injector-{namespace}"},
        "webhooks": [
            {
                "name": "injector.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "timeoutSeconds": 20,
                "failurePolicy": "Fail",
                "namespaceSelector": where,
                "objectSelector": {"matchExpressions": [*unless]},
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ],
                "clientConfig": {
                    "url": f"https://127.0.0.1:{server.server_port}/inject",
                    "caBundle": authority,
                },
            }
        ],
    }
    try:
        kubectl.apply(manifest)
        eventually("the injector is in force", lambda: _is_asked(kubectl, namespace))
        yield
    finally:
        kubectl("delete", "mutatingwebhookconfiguration", f"injector-{namespace}")
        server.shutdown()
        thread.join()
        server.server_close()


PROBE = "injector-probe"


def _is_asked(kubectl: Kubectl, namespace: str) -> bool:
    """Whether the API server knows the webhook by now: a pod of this name is always refused."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": PROBE, "namespace": namespace},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    }
    done = kubectl.run("create", "--dry-run=server", "-f", "-", text=json.dumps(pod))
    return "the injector is asked" in done.stderr


def _answered(body: Object, change: Change) -> Object:
    request = body["request"]
    pod, response = copy.deepcopy(request["object"]), {"uid": request["uid"], "allowed": True}
    try:
        if pod["metadata"].get("name") == PROBE:
            raise Refusal("the injector is asked")
        change(pod)
    except Refusal as refused:
        response |= {"allowed": False, "status": {"code": 403, "message": str(refused)}}
    else:
        patch = [{"op": "replace", "path": "/spec", "value": pod["spec"]}]
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


# --- What injectors do ----------------------------------------------------------------------

CONFINED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1337,
}
"""As Istio's containers are where its CNI plugin does what takes rights."""

TOKEN = {
    "name": "istio-token",
    "projected": {
        "sources": [{"serviceAccountToken": {"audience": "istio-ca", "path": "istio-token"}}]
    },
}


def proxy(**more: Any) -> Object:
    """A mesh's container, with no limits and a root file system that can be written to."""
    mount = {"name": "istio-token", "mountPath": "/var/run/secrets/tokens"}
    return {
        "name": "a-proxy",
        "image": "mesh.example.com/proxy:1",
        "volumeMounts": [mount],
        "securityContext": CONFINED,
        **more,
    }


def as_a_mesh_with_cni(pod: Object) -> None:
    """A sidecar before the driver, and an init container that only looks."""
    looks = proxy(name="istio-validation", volumeMounts=[])
    pod["spec"]["containers"].insert(0, proxy())
    pod["spec"]["initContainers"] = [looks, *pod["spec"].get("initContainers", [])]
    pod["spec"]["volumes"].append(TOKEN)


def as_a_mesh_with_native_sidecars(pod: Object) -> None:
    """A sidecar that is an init container and runs on."""
    pod["spec"]["initContainers"] = [proxy(restartPolicy="Always")]
    pod["spec"]["volumes"].append(TOKEN)


def as_a_classic_mesh(pod: Object) -> None:
    """A sidecar before the driver, and an init container that changes the pod's network as root."""
    rights = {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}, "runAsUser": 0}
    init = {"name": "istio-init", "image": "mesh.example.com/proxy:1"}
    pod["spec"]["containers"].insert(0, proxy())
    pod["spec"]["initContainers"] = [init | {"securityContext": rights | {"runAsNonRoot": False}}]
    pod["spec"]["volumes"].append(TOKEN)


RANGE = range(1000650000, 1000660000)


def as_restricted_v2(pod: Object) -> None:
    """OpenShift's constraint: users and groups come from the namespace's range, or it sets them."""
    spec = pod["spec"]
    context = spec.setdefault("securityContext", {})
    for name in ("runAsUser", "fsGroup"):
        if context.get(name) not in (None, *RANGE[:1]):
            raise Refusal(
                f"unable to validate against any security context constraint: {name}: Invalid "
                f"value: {context[name]}: must be in the ranges: [{RANGE[0]}, {RANGE[-1]}]"
            )
    context |= {"fsGroup": RANGE[0], "seLinuxOptions": {"level": "s0:c25,c20"}}
    for container in (*spec["containers"], *spec.get("initContainers", [])):
        own = container.setdefault("securityContext", {})
        if own.get("runAsUser") not in (None, *RANGE[:1]):
            raise Refusal(f"container {container['name']}: runAsUser: Invalid value")
        own["runAsUser"] = RANGE[0]
