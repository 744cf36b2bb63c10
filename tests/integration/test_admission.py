"""The webhook as the API server asks it: over TLS that it trusts, by the chart's configuration.

The Service leads to a process on this machine; all else is as the chart has it.
"""

import base64
import http.client
import json
import os
import re
import secrets
import socket
import ssl
import subprocess
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.authority import certificate
from tests.integration.api import record, secret
from tests.integration.conftest import World, chart, control_plane, staged
from tests.integration.corpus import CORPUS, GOOD
from tests.integration.parts import (
    ROOT,
    AdmissionServer,
    DryRuns,
    Kubectl,
    Object,
    Simulator,
    eventually,
    operators_config,
)
from tests.integration.test_bad_input import manifest

from gpujob.core.api_tokens import token_of
from localcluster import binaries
from localcluster.control_plane import ControlPlane, free_port

# One server, or more, serve all tests of this module.
pytestmark = pytest.mark.xdist_group("admission")

CONFIGURATION = "gpujob-system-gpujob"
HOST = "jobs.example.com"
"""By which clients of the HTTP API know the server; as in the document."""
OVERLAP_SECONDS = 2
LIFE_SECONDS = 60
REVIEWS = 1000


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of this module's own: its webhook refuses what no server has passed."""
    with control_plane(tmp_path_factory.mktemp("plane") / "state") as running:
        yield running


@dataclass
class Cast:
    """A world, and the server that is asked about its jobs."""

    world: World
    server: AdmissionServer
    api_port: int
    """Where the same server has the HTTP API."""

    def is_asked(self) -> bool:
        """Whether the webhook refuses what is wrong, and that alone."""
        good, wrong = GOOD, GOOD | {"image": "Python"}
        passes = [self.create(spec, "--dry-run=server")[0] == 0 for spec in (good, wrong)]
        return passes == [True, False]

    def create(self, spec: Any, *arguments: str, name: str = "job") -> tuple[int, str]:
        """Creates a job and returns kubectl's status and what it said."""
        text = manifest(self.world.namespace, spec, name)
        done = self.world.kubectl.run("create", "-f", "-", *arguments, text=text)
        return done.returncode, done.stderr


@pytest.fixture(scope="module")
def module_cast(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    """Simulator, controller and server, with the webhook of the chart in force."""
    folder = tmp_path_factory.mktemp("cast")
    kubectl = Kubectl(plane, plane.kubeconfig)
    api_port = free_port()
    server = AdmissionServer(
        folder,
        operators_config(plane, folder / "server.kubeconfig", account="gpujob-server"),
        GPUJOB_API_PORT=str(api_port),
        GPUJOB_TRANSPORT_URL=f"https://127.0.0.1:{free_port()}",
    )
    simulator = Simulator(folder)
    simulator.start()
    try:
        settings = {
            "GPUJOB_WEBHOOK": CONFIGURATION,
            "GPUJOB_CLIENTS_NAMES": HOST,
            "GPUJOB_KEEPS_MARK_KEYS": "true",
            "GPUJOB_CERTIFICATE_LIFE_SECONDS": str(LIFE_SECONDS),
            "GPUJOB_CERTIFICATE_OVERLAP_SECONDS": str(OVERLAP_SECONDS),
        }
        with staged(plane, simulator, folder, **settings) as world:
            _install(kubectl, server.port)
            world.operator.start()
            server.start()
            cast = Cast(world, server, api_port)
            eventually("the webhook is in force", cast.is_asked)
            yield cast
            kubectl("delete", "validatingwebhookconfiguration", CONFIGURATION)
    finally:
        if server.runs:
            server.stop()
        print(f"--- server's log\n{server.log[-5000:]}")
        simulator.stop()


@pytest.fixture
def cast(module_cast: Cast) -> Iterator[Cast]:
    """The same for all tests here; each leaves the namespace empty."""
    yield module_cast
    world = module_cast.world
    world.kubectl("delete", "gpujobs", "--all", "-n", world.namespace, "--timeout=240s")


def _install(kubectl: Kubectl, port: int) -> None:
    """Installs the chart's webhook, its Service leading to a port of this machine."""
    name = {"name": "gpujob-server", "namespace": "gpujob-system"}
    kubectl("delete", "service", name["name"], "-n", name["namespace"])
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": name,
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        }
    )
    documents = chart(binaries.folder())
    (webhook,) = (one for one in documents if one["kind"] == "ValidatingWebhookConfiguration")
    webhook["webhooks"][0]["clientConfig"]["service"]["port"] = port
    kubectl.apply(webhook)


def test_a_job_is_refused_with_every_fault_and_its_remedy(cast: Cast) -> None:
    """At once, with the field; a good one passes, with what it may regret."""
    wrong = {"image": "Python", "gpu": {"models": ["RTX_4091", "A100"]}, "args": ["a\0"]}
    status, told = cast.create(GOOD | wrong)

    assert status != 0
    assert "spec.image: 'Python' is not a container image" in told
    unknown = "spec.gpu.models[0]: the market has no GPU called 'RTX_4091'"
    assert f"{unknown}; did you mean 'RTX 4090'" in told
    assert "spec.gpu.models[1]: 'A100' leaves its memory open; write 'A100 40GB' or" in told
    assert "spec.args[0]: contains a NUL character, which cannot be passed" in told
    status, told = cast.create(GOOD | {"suspend": True, "market": {"hosts": "Any"}})
    assert status == 0
    assert "Warning: spec.market.hosts is Any" in told


def test_what_people_write_passes(cast: Cast) -> None:
    """Null from server-side apply, and the names that GPUs have among people; with a warning."""
    kubectl, namespace = cast.world.kubectl, cast.world.namespace
    written = {"workingDir": None, "data": {"log": None}, "gpu": {"models": ["h100", "rtx_4090"]}}
    text = manifest(namespace, GOOD | written | {"suspend": True}, "written")
    done = kubectl.run("apply", "--server-side", "-f", "-", text=text)

    assert done.returncode == 0, done.stderr
    assert "'h100' is taken for any of H100 NVL, H100 PCIE, H100 SXM" in done.stderr
    stored = cast.world.job("written")["spec"]
    assert stored["gpu"]["models"] == ["h100", "rtx_4090"]


def test_no_job_is_stored_beside_the_operators_secrets(cast: Cast) -> None:
    """The webhook knows in which namespace it is itself, and needs no policy for that."""
    with _without_the_policy_for_places(cast):
        told = beside_the_key(cast, "job", "--dry-run=server").stderr

    assert "admission webhook" in told
    assert "metadata.namespace: no GpuJob may be in gpujob-system" in told


STEALING = GOOD | {
    "command": ["sh", "-c", "echo $KEY"],
    "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "vast", "key": "api-key"}}}],
}
"""It had the rented machine print the account's key."""


def beside_the_key(cast: Cast, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Creates the job that steals the key, where the key is."""
    text = manifest("gpujob-system", STEALING, name)
    return cast.world.kubectl.run("create", "-f", "-", *arguments, text=text)


@contextmanager
def _without_the_policy_for_places(cast: Cast) -> Iterator[None]:
    """For a while, no policy says where jobs may be."""
    kubectl = cast.world.kubectl
    target = ("validatingadmissionpolicybinding", "gpujob-system-gpujob-places")
    stored = json.loads(kubectl("get", *target, "-o", "json"))
    kubectl("delete", *target)

    def is_held() -> bool:
        return "ValidatingAdmissionPolicy" in beside_the_key(cast, "job", "--dry-run=server").stderr

    eventually("the policy does not hold", lambda: not is_held())
    try:
        yield
    finally:
        for field in ("uid", "resourceVersion", "creationTimestamp", "generation"):
            stored["metadata"].pop(field, None)
        kubectl.apply(stored)
        eventually("the policy holds again", is_held)


def test_the_job_that_steals_the_key_gets_nowhere_by_any_path(cast: Cast) -> None:
    """By kubectl or an account, with rights beside the key, or as a backup would bring it.

    Whichever layers are gone, no pod is made, and nothing is rented. By the API, see
    test_webhook.py.
    """
    kubectl, world = cast.world.kubectl, cast.world
    home = ("-n", "gpujob-system")
    kubectl.client.apply(secret("vast", {"api-key": base64.b64encode(b"the key").decode()}))
    kubectl("create", "serviceaccount", "ci", *home)
    kubectl("create", "role", "ci", "--verb=create", "--resource=gpujobs.gpujob.dev", *home)
    kubectl("create", "rolebinding", "ci", "--role=ci", "--serviceaccount=gpujob-system:ci", *home)
    paths = {"by-kubectl": (), "by-an-account": ("--as=system:serviceaccount:gpujob-system:ci",)}
    rented = len(world.simulator.ledger())
    words = "no GpuJob may be in gpujob-system"
    for how in paths.values():
        assert words in beside_the_key(cast, "job", *how).stderr
    with _unasked(cast):
        for how in paths.values():
            assert words in beside_the_key(cast, "job", *how).stderr, "by the policy alone"
        with _without_the_policy_for_places(cast):
            for name, how in paths.items():
                done = beside_the_key(cast, name, *how)
                assert done.returncode == 0, f"nothing refuses it here: {done.stderr}"

            def reasons() -> set[str]:
                found = [kubectl.get("gpujob", name, "gpujob-system") or {} for name in paths]
                conditions = [one.get("status", {}).get("conditions", []) for one in found]
                return {
                    one["reason"] for each in conditions for one in each if one["type"] == "Ready"
                }

            eventually("the controller refuses them", lambda: reasons() == {"SpecInvalid"})
            world.await_listings(3)
            assert kubectl.items("pods", *home) == []
            assert kubectl.items("gpunodes", *home) == []
            assert len(world.simulator.ledger()) == rented
            kubectl("delete", "gpujobs", "--all", *home, "--timeout=240s")


def test_a_ceiling_that_nothing_meets_is_warned_of(cast: Cast) -> None:
    """By what the controller last saw of the market and has published."""
    deadline = GOOD | {"activeDeadlineSeconds": 3600, "gpu": {"models": ["RTX 4090"]}}
    cast.create(deadline | {"cost": {"ceiling": "0.01"}}, name="dear")
    cast.world.await_reason("dear", "CeilingExceeded")
    low, enough = ({"cost": {"ceiling": usd}} for usd in ("0.01", "9.00"))

    eventually(
        "the price is known",
        lambda: (
            "Warning: spec.cost.ceiling: at today's lowest price the job costs over $0."
            in cast.create(deadline | low, "--dry-run=server")[1]
        ),
    )
    assert "Warning" not in cast.create(deadline | enough, "--dry-run=server")[1]


def test_without_the_operator_nothing_new_begins_and_nobody_is_locked_out(
    cast: Cast,
) -> None:
    """Both programs down: spending is refused, leaving and stopping are not; then all goes on."""
    world, kubectl = cast.world, cast.world.kubectl
    here = ("-n", world.namespace)
    cast.create(GOOD | {"suspend": True}, name="kept")
    cast.create(GOOD | {"command": ["sleep", "600"], "activeDeadlineSeconds": 900}, name="runs")
    cast.create(GOOD, name="done")
    world.await_reason("runs", "Running")
    world.await_reason("done", "Complete")
    over = [("gpujob", "done"), ("gpunode", "done-0-1")]
    eventually("nothing holds what is over", lambda: not any(_held(cast, *one) for one in over))
    world.operator.stop()
    cast.server.stop()
    rented = len(world.simulator.ledger())

    patch = ("--type=merge", "-p")
    for refused in (
        cast.create(GOOD, name="new"),
        _patched(kubectl, "kept", here, '{"spec":{"suspend":false}}'),
        _patched(kubectl, "runs", here, '{"spec":{"cost":{"ceiling":"9.00"}}}'),
        _patched(kubectl, "runs", here, '{"spec":{"suspend":true,"cost":{"ceiling":"9.00"}}}'),
    ):
        assert refused[0] != 0
        assert 'failed calling webhook "gpujobs.validate.gpujob.dev"' in refused[1]
    kubectl("label", "gpujob", "kept", *here, "team=vision")
    kubectl("patch", "gpujob", "runs", *here, *patch, '{"spec":{"suspend":true}}')
    for held in ('["example.com/held"]', "null"):
        kubectl("patch", "gpujob", "kept", *here, *patch, f'{{"metadata":{{"finalizers":{held}}}}}')
        if held != "null":
            kubectl("delete", "gpujob", "kept", *here, "--wait=false")
    assert world.job("kept") == {}
    # With foreground deletion, its GpuNode goes first.
    kubectl("delete", "gpujob", "done", *here, "--cascade=foreground", "--timeout=240s")
    assert kubectl.get("gpunode", "done-0-1", world.namespace) is None
    assert len(world.simulator.ledger()) == rented

    cast.server.start()
    world.operator.start()
    world.await_reason("runs", "Suspended")
    assert world.simulator.living() == []
    eventually("a job is taken again", lambda: cast.create(GOOD, name="new")[0] == 0)
    world.await_reason("new", "Complete")


def _held(cast: Cast, kind: str, name: str) -> bool:
    """Whether a finalizer keeps an object."""
    stored = cast.world.kubectl.get(kind, name, cast.world.namespace) or {}
    return "finalizers" in stored["metadata"]


def _patched(kubectl: Kubectl, name: str, here: tuple[str, ...], patch: str) -> tuple[int, str]:
    done = kubectl.run("patch", "gpujob", name, *here, "--type=merge", "-p", patch)
    return done.returncode, done.stderr


@contextmanager
def _unasked(cast: Cast) -> Iterator[None]:
    """For a while, the API server has no webhook to ask."""
    kubectl = cast.world.kubectl
    target = ("validatingwebhookconfiguration", CONFIGURATION)
    stored = json.loads(kubectl("get", *target, "-o", "json"))
    kubectl("delete", *target)
    wrong = GOOD | {"image": "Python"}
    eventually("nobody is asked", lambda: cast.create(wrong, "--dry-run=server")[0] == 0)
    yield
    for field in ("uid", "resourceVersion", "creationTimestamp", "generation"):
        stored["metadata"].pop(field, None)
    kubectl.apply(stored)
    eventually("the webhook is in force again", cast.is_asked)


def test_each_layer_refuses_what_the_one_before_it_let_pass(cast: Cast) -> None:
    """Schema, webhook, controller: nothing in the corpus is ever rented for, or ends a program."""
    world = cast.world
    rented = len(world.simulator.ledger())
    asker = DryRuns(world.plane)
    told = {one.name: asker.refusals(one.manifest) for one in CORPUS}
    assert [name for name, words in told.items() if not words] == []
    by_webhook = {name for name, words in told.items() if "admission webhook" in " ".join(words)}

    with _unasked(cast):
        matters = [one for one in CORPUS if one.matters]
        left = [one for one in matters if not asker.refusals(one.manifest)]
        for number, one in enumerate(left):
            body = one.manifest | {"metadata": {"name": f"forced-{number}"}}
            world.kubectl("create", "-n", world.namespace, "-f", "-", text=json.dumps(body))
        reasons: Counter[str] = Counter()
        for number, _ in enumerate(left):
            world.await_reason(f"forced-{number}", "SpecInvalid", "NoMatchingOffer")
            reasons[world.condition(f"forced-{number}", "Ready")["reason"]] += 1
    asker.close()

    assert {one.name for one in left} <= by_webhook
    assert len(world.simulator.ledger()) == rented
    assert world.operator.runs
    assert cast.server.runs
    figures = {
        "wrong manifests": len(CORPUS),
        "refused by schema or CEL": len(CORPUS) - len(by_webhook),
        "refused by the webhook": len(by_webhook),
        "of money or security, refused without the webhook's configuration": len(matters)
        - len(left),
        "the rest, forced in, refused by the controller": dict(reasons),
    }
    for what, figure in figures.items():
        print(f"corpus: {what}: {figure}")


REVIEW: Object = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {
        "uid": "1234",
        "kind": {"group": "gpujob.dev", "version": "v1alpha1", "kind": "GpuJob"},
        "operation": "CREATE",
        "object": {"metadata": {"name": "job"}, "spec": GOOD},
    },
}
JSON = {"Content-Type": "application/json"}


def _asked(cast: Cast, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Object]:
    """Sends the server what the API server never would, over TLS as it is trusted."""
    target = ("validatingwebhookconfiguration", CONFIGURATION, "-o", "json")
    (webhook,) = json.loads(cast.world.kubectl("get", *target))["webhooks"]
    trusted = base64.b64decode(webhook["clientConfig"]["caBundle"]).decode()
    context = ssl.create_default_context(cadata=trusted)
    line = http.client.HTTPConnection("127.0.0.1", cast.server.port, timeout=30)
    with (
        closing(line),
        socket.create_connection(("127.0.0.1", cast.server.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="gpujob-server.gpujob-system.svc") as tls,
    ):
        line.sock = tls
        line.request("POST", path, body, headers)
        with line.getresponse() as answer:
            return answer.status, json.loads(answer.read() or b"{}")


def _spoilt(**changes: Any) -> bytes:
    return json.dumps(REVIEW | {"request": REVIEW["request"] | changes}).encode()


WRONG = [
    ("no such path", "/validate", _spoilt(), JSON, 404),
    ("another path below", "/validate-gpujobs/x", _spoilt(), JSON, 404),
    ("no content type", "/validate-gpujobs", _spoilt(), {}, 415),
    ("another one", "/validate-gpujobs", _spoilt(), {"Content-Type": "text/plain"}, 415),
    ("no JSON", "/validate-gpujobs", b"{", JSON, 400),
    ("nothing", "/validate-gpujobs", b"", JSON, 400),
    ("no UTF-8", "/validate-gpujobs", b'{"kind": "\xff"}', JSON, 400),
    ("too deep", "/validate-gpujobs", b"[" * 10_000 + b"]" * 10_000, JSON, 400),
    ("another kind of document", "/validate-gpujobs", b'{"kind": "Pod"}', JSON, 400),
    ("no object", "/validate-gpujobs", _spoilt(object=None), JSON, 400),
    (
        "another kind of object",
        "/validate-gpujobs",
        _spoilt(kind={"group": "", "version": "v1", "kind": "Pod"}),
        JSON,
        400,
    ),
    ("another operation", "/validate-gpujobs", _spoilt(operation="DELETE"), JSON, 400),
    ("too large", "/validate-gpujobs", b" " * (9 * 2**20), JSON, 413),
]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG]
)
def test_what_is_no_review_is_refused(
    cast: Cast, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    """With a status that the API server takes for a refusal; and the next review is answered."""
    assert _asked(cast, path, body, headers)[0] == status
    status, answer = _asked(cast, "/validate-gpujobs", _spoilt(), JSON)
    assert (status, answer["response"]) == (200, {"uid": "1234", "allowed": True})


def test_a_review_may_be_as_large_as_the_api_server_takes(cast: Cast) -> None:
    """Two objects of almost 1.5 MiB, which is what etcd takes."""
    large = {"annotations": {"example.com/note": "x" * 1_450_000}}
    body = _spoilt(object={"metadata": large, "spec": GOOD}, oldObject={"metadata": large})

    assert len(body) > 2.9 * 10**6
    assert _asked(cast, "/validate-gpujobs", body, JSON)[1]["response"]["allowed"] is True


def _used(kubectl: Kubectl) -> str:
    """Returns the certificate that is in use."""
    secret = kubectl.get("secret", "gpujob-server-tls", "gpujob-system") or {}
    return str(secret.get("data", {}).get("tls.crt", ""))


def test_certificates_rotate_while_reviews_go_on(cast: Cast) -> None:
    """A thousand reviews, with a rotation under them, and none fails."""
    kubectl = cast.world.kubectl
    first = _used(kubectl)
    used: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if (now := _used(kubectl)) and now != (used[-1] if used else first):
                used.append(now)
            over.wait(0.2)

    watching = threading.Thread(target=watch)
    watching.start()
    failed: list[str] = []
    done = 0
    askers = [DryRuns(cast.world.plane) for _ in range(4)]
    try:
        with ThreadPoolExecutor(len(askers)) as pool:
            while (done < REVIEWS or not used) and not failed:
                # No need to ask as fast as can be.
                over.wait(0.2)
                batch = [pool.submit(_ask, asker, 5) for asker in askers]
                failed += [problem for one in batch for problem in one.result()]
                done += 5 * len(askers)
    finally:
        over.set()
        watching.join()
        for asker in askers:
            asker.close()

    assert failed == []
    assert done >= REVIEWS
    assert used, "none was rotated"


def test_the_documents_curl_is_answered_whatever_certificate_is_used(
    cast: Cast, tmp_path: Path
) -> None:
    """By the authority that was read once: the next certificate is of the same one.

    Another authority is not believed, nor is this one for any other name.
    """
    kubectl, token = cast.world.kubectl, token_of(secrets.token_bytes(32))
    kubectl.client.apply(secret("gpujob-api-tokens", {"ci": record(token)}))
    eventually("the API knows its token", lambda: '"tokens": 1' in cast.server.log)
    document = (ROOT / "helm/gpujob/README.md").read_text()
    blocks = re.findall(r"(?m)^(?: {4}.*\n)+", document)
    (block,) = (textwrap.dedent(one) for one in blocks if "gpujob-ca.crt" in one)
    reading, calling = block[: block.index("curl ")], block[block.index("curl ") :]
    (tmp_path / ".curlrc").write_text(
        "".join(
            f'connect-to = "{name}:8444:127.0.0.1:{cast.api_port}"\n'
            for name in (HOST, "other.com")
        )
    )
    given = {
        **{"HOME": str(tmp_path), "CURL_HOME": str(tmp_path), "TOKEN": token},
        "KUBECONFIG": str(kubectl.kubeconfig),
        "PATH": f"{cast.world.plane.bin}:{os.environ['PATH']}",
    }

    def run(script: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True)

    done = run(reading + calling)
    assert json.loads(done.stdout)["items"] == [], done.stderr
    assert run(calling.replace(HOST, "other.com")).returncode == NOT_BELIEVED
    # Two of them, since callers believe the one before, too.
    seen = {_used(kubectl)}
    for number in (2, 3):
        eventually(f"certificate {number} is used", lambda: _used(kubectl) not in {"", *seen})
        seen.add(_used(kubectl))
    eventually("it is shown", lambda: _shown(cast) == _decoded(_used(kubectl)))
    done = run(calling)
    assert json.loads(done.stdout)["items"] == [], done.stderr
    (tmp_path / "gpujob-ca.crt").write_text(certificate(HOST).authority)
    assert run(calling).returncode == NOT_BELIEVED


NOT_BELIEVED = 60
"""As curl says it."""


def _shown(cast: Cast) -> str:
    return ssl.get_server_certificate(("127.0.0.1", cast.api_port))


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()


def _ask(asker: DryRuns, times: int) -> list[str]:
    """Returns what was held against a good job."""
    good = json.loads(manifest("default", GOOD))
    return [problem for _ in range(times) for problem in asker.refusals(good)]
