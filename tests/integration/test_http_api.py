"""The HTTP API as a process, over TLS, with the rights of its chart, on a real API server."""

import base64
import json
import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from pydantic import SecretBytes
from tests.integration.api import BOOTSTRAP, INTERNALS, JOBS, SPEC, TOKENS, Api, record
from tests.integration.client import path_of
from tests.integration.conftest import fresh_namespace
from tests.integration.parts import AdmissionServer, eventually, operators_config, unsigned
from tests.integration.proxy import proxy

from gpujob.core.api_tokens import token_of
from gpujob.core.mark_keys import LIFE, OVERLAP, MarkKey, data_of, keys_in
from localcluster.control_plane import ControlPlane, free_port

# One server, or more, serve all tests of this module.
pytestmark = pytest.mark.xdist_group("http api")


@pytest.fixture
def api(module_api: Api) -> Iterator[Api]:
    """The API, for a namespace of the test's own; each test begins with a full budget."""
    with fresh_namespace(module_api.kubectl) as namespace:
        yield Api(
            module_api.port,
            module_api.authority,
            namespace,
            module_api.kubectl,
            module_api.server,
            BOOTSTRAP,
        )


# --- Who is let in ----------------------------------------------------------------------------


WRITES = {
    ("POST", JOBS),
    ("POST", f"{JOBS}/train/suspend"),
    ("POST", f"{JOBS}/train/resume"),
    ("DELETE", f"{JOBS}/train"),
}


def test_a_token_to_read_writes_nothing(api: Api) -> None:
    """Whatever it is of its namespace that would be changed."""
    assert api.create("train").status == 201
    before = api("GET", f"{JOBS}/train").body
    for method, path in WRITES:
        body = {"metadata": {"name": "other"}, "spec": SPEC}
        assert api(method, path, body, token=TOKENS["reader"]).status == 403, (method, path)
    assert api("GET", JOBS, token=TOKENS["reader"]).body["items"] == [before]


def test_rights_come_before_all_else(api: Api) -> None:
    """Whoever may not do a thing does not learn what else would be wrong with the request."""
    for method, path in (
        ("GET", f"{JOBS}?limit=x"),
        ("GET", f"{JOBS}?cursor=AAAA"),
        ("GET", f"{JOBS}/absent/log?attempt=x"),
        ("POST", JOBS),
        ("DELETE", f"{JOBS}/absent"),
    ):
        answer = api(method, path, b"{" if method == "POST" else None, token=TOKENS["b"])
        assert answer.status == 403, (method, path, answer)
    assert api("GET", "/v1/namespaces/Team_b/jobs", token=TOKENS["b"]).status == 400


def test_tokens_come_and_go_while_it_runs(api: Api) -> None:
    """Two overlap while one takes the other's place; one that is taken away is good no more."""
    new, target = token_of(secrets.token_bytes(32)), ("secret", "gpujob-api-tokens")

    def patch(value: str | None) -> None:
        text = json.dumps({"data": {"new": value}})
        api.kubectl("patch", *target, "-n", "gpujob-system", "--type=merge", "-p", text)

    patch(record(new, "read"))
    eventually("the new one is good", lambda: api("GET", "/v1/jobs", token=new).status == 200)
    assert api("GET", "/v1/jobs", token=TOKENS["reader"]).status == 200
    patch(record(new, "read", 3 / 86400))
    eventually("it expires", lambda: api("GET", "/v1/jobs", token=new).status == 401)
    patch(base64.b64encode(b"nonsense").decode())
    eventually("what is not understood is told", lambda: "token_unreadable" in api.server.log)
    assert api("GET", "/v1/jobs", token=TOKENS["reader"]).status == 200
    patch(None)


CALLERS: dict[str, tuple[str, list[str], list[str]]] = {
    # Role's scope, verbs on gpujobs, further rules.
    "nobody": ("", [], []),
    "lists": ("namespace", ["list"], []),
    "gets": ("namespace", ["get"], []),
    "views": ("namespace", ["get", "list", "watch"], []),
    "creates": ("namespace", ["create"], []),
    "deletes": ("namespace", ["get", "delete"], []),
    "suspends": ("namespace", ["get", "patch"], []),
    "edits": ("namespace", ["get", "list", "watch", "create", "patch", "delete"], ["log", "nodes"]),
    "logs": ("namespace", ["get"], ["log"]),
    "elsewhere": ("other", ["get", "list", "watch", "create", "patch", "delete"], ["log", "nodes"]),
    "views-all": ("cluster", ["get", "list", "watch"], ["nodes"]),
    "admin": ("cluster", ["*"], ["log", "nodes"]),
}
"""Accounts of the cluster: each has a role of its own."""

OPERATIONS: dict[str, tuple[str, str, tuple[str, str], bool]] = {
    # Method and path, verb and resource by which RBAC decides, whether in all namespaces.
    "list": ("GET", JOBS, ("list", "gpujobs"), False),
    "list all": ("GET", "/v1/jobs", ("list", "gpujobs"), True),
    "get": ("GET", f"{JOBS}/train", ("get", "gpujobs"), False),
    "watch": ("GET", "/v1/namespaces/{}/watch/jobs", ("watch", "gpujobs"), False),
    "create": ("POST", JOBS, ("create", "gpujobs"), False),
    "estimate": ("POST", "/v1/namespaces/{}/estimates", ("create", "gpujobs"), False),
    "suspend": ("POST", f"{JOBS}/train/suspend", ("patch", "gpujobs"), False),
    "delete": ("DELETE", f"{JOBS}/absent", ("delete", "gpujobs"), False),
    "log": ("GET", f"{JOBS}/train/log", ("get", "pods/log"), False),
    "machines": ("GET", "/v1/namespaces/{}/machines", ("list", "gpunodes"), False),
}


def _rights(api: Api) -> dict[tuple[str, str], bool]:
    """What each account may, in the API server's own words."""
    asked = []
    for name in CALLERS:
        for _, _, (verb, resource), everywhere in OPERATIONS.values():
            plural, _, part = resource.partition("/")
            attributes = {
                "verb": verb,
                "resource": plural,
                "subresource": part,
                "group": "" if part else "gpujob.dev",
                "namespace": "" if everywhere else api.namespace,
            }
            user = f"system:serviceaccount:{api.namespace}:{name}"
            groups = ["system:authenticated", "system:serviceaccounts"]
            asked.append(
                {
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SubjectAccessReview",
                    "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
                }
            )
    listed = {"apiVersion": "v1", "kind": "List", "items": asked}
    done = api.kubectl("create", "-o", "json", "-f", "-", text=json.dumps(listed))
    # One document after the other.
    answers = json.loads("[" + done.strip().replace("}\n{", "},{") + "]")
    cases = [(name, operation) for name in CALLERS for operation in OPERATIONS]
    return {case: bool(one["status"]["allowed"]) for case, one in zip(cases, answers, strict=True)}


def _account(api: Api, name: str) -> str:
    """Makes a service account with its role, and returns a token of it."""
    where, verbs, more = CALLERS[name]
    kubectl = api.kubectl
    home = ("-n", api.namespace)
    kubectl("create", "serviceaccount", name, *home)
    rules = [{"apiGroups": ["gpujob.dev"], "resources": ["gpujobs"], "verbs": verbs}]
    if "log" in more:
        rules.append({"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]})
    if "nodes" in more:
        rules.append({"apiGroups": ["gpujob.dev"], "resources": ["gpunodes"], "verbs": ["list"]})
    if where:
        scope = "Cluster" if where == "cluster" else ""
        meta = {"name": f"{api.namespace}-{name}"}
        if not scope:
            meta["namespace"] = api.namespace if where == "namespace" else "default"
        group = "rbac.authorization.k8s.io"
        subject = {"kind": "ServiceAccount", "name": name, "namespace": api.namespace}
        role = {"apiGroup": group, "kind": f"{scope}Role", "name": meta["name"]}
        head = {"apiVersion": f"{group}/v1", "metadata": meta}
        kubectl.apply({**head, "kind": f"{scope}Role", "rules": rules})
        binding = {"kind": f"{scope}RoleBinding", "roleRef": role, "subjects": [subject]}
        kubectl.apply({**head, **binding})
    return kubectl("create", "token", name, *home, "--audience=gpujob.dev/api").strip()


def test_the_clusters_rights_are_the_callers_rights(api: Api) -> None:
    """Twelve accounts and ten operations: what kubectl may, the API does, and nothing else."""
    assert api.create("train").status == 201
    tokens = {name: _account(api, name) for name in CALLERS}
    rights = _rights(api)
    differ = []
    for (name, operation), right in rights.items():
        method, path, _, _ = OPERATIONS[operation]
        body = (
            {"metadata": {"name": name}, "spec": SPEC}
            if operation in ("create", "estimate")
            else None
        )
        answer = api(method, path, body, token=tokens[name])
        does = answer.status not in (401, 403)
        # To read a log one must see its job as well.
        may = right and (operation != "log" or rights[name, "get"])
        if may is not does:
            differ.append((name, operation, may, answer))
    for kind in ("clusterrole", "clusterrolebinding"):
        for name in ("views-all", "admin"):
            api.kubectl("delete", kind, f"{api.namespace}-{name}")
    for kind in ("role", "rolebinding"):
        api.kubectl("delete", kind, f"{api.namespace}-elsewhere", "-n", "default")

    assert differ == []
    assert 20 < sum(rights.values()) < len(rights) - 20, "some may, some may not"


# --- Jobs -------------------------------------------------------------------------------------


def test_the_life_of_a_job(api: Api) -> None:
    """Created, read, listed, suspended, resumed, explained, deleted; the cluster has it so too."""
    made = api.create("train")
    assert made.status == 201, made
    assert made.headers["location"] == f"/v1/namespaces/{api.namespace}/jobs/train"
    stored = api.kubectl.get("gpujob", "train", api.namespace) or {}
    assert stored["metadata"]["uid"] == made.body["metadata"]["uid"]
    assert stored["spec"] == made.body["spec"]

    read = api("GET", f"{JOBS}/train")
    assert (read.status, read.headers["etag"]) == (200, made.headers["etag"])
    assert [one["metadata"]["name"] for one in api("GET", JOBS).body["items"]] == ["train"]
    mine = [
        one
        for one in api("GET", "/v1/jobs?limit=500").body["items"]
        if one["metadata"]["namespace"] == api.namespace
    ]
    assert mine == [read.body]

    suspended = api("POST", f"{JOBS}/train/suspend", if_match=read.headers["etag"])
    assert (suspended.status, suspended.body["spec"]["suspend"]) == (200, True)
    stale = api("POST", f"{JOBS}/train/resume", if_match=read.headers["etag"])
    assert stale.status == 412
    assert api("DELETE", f"{JOBS}/train", if_match=read.headers["etag"]).status == 412
    resumed = api("POST", f"{JOBS}/train/resume", if_match="*")
    assert (resumed.status, resumed.body["spec"]["suspend"]) == (200, False)

    decision = api("GET", f"{JOBS}/train/decision")
    assert decision.status == 200
    assert decision.body["ceilingUSD"] == "1.00"
    assert "admitted" not in decision.body, "no controller has decided yet"
    assert decision.body["reason"] == "Unseen"
    assert decision.body["message"].startswith("No controller has looked at it yet.")
    gone = api("DELETE", f"{JOBS}/train", if_match=resumed.headers["etag"])
    assert gone.status == 202
    assert api.kubectl.get("gpujob", "train", api.namespace) is None
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/suspend"), ("GET", "/decision")):
        assert api(method, f"{JOBS}/train{path}").status == 404


def test_whoever_creates_a_job_hears_that_no_controller_leads(api: Api) -> None:
    """Nobody will look at it; the job is stored all the same."""
    namespace, lease = "gpujob-system", "/apis/coordination.k8s.io/v1/namespaces/gpujob-system"
    api.kubectl.run("delete", "lease", "gpujob", "-n", namespace)

    def warning(name: str) -> str:
        made = api.create(name)
        api.kubectl.client.delete("gpujobs", name, api.namespace)
        return made.headers.get("warning", "")

    eventually("it is told", lambda: "no controller leads now" in warning("unled"))
    body = {
        "metadata": {"name": "gpujob"},
        "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 5},
    }
    api.kubectl.client.send("POST", f"{lease}/leases", body)
    try:
        eventually("somebody leads", lambda: "no controller leads now" not in warning("led"))
        eventually("but does no more", lambda: "no controller leads now" in warning("left"))
    finally:
        api.kubectl("delete", "lease", "gpujob", "-n", namespace)


def test_pages_hold_all_and_each_once(api: Api) -> None:
    """However few fit on one."""
    names = [f"job-{number}" for number in range(7)]
    for name in names:
        assert api.create(name).status == 201
    found: list[str] = []
    path = f"{JOBS}?limit=3"
    pages = 0
    while path:
        page = api("GET", path)
        assert page.status == 200
        found += [one["metadata"]["name"] for one in page.body["items"]]
        cursor = page.body.get("nextCursor")
        path = f"{JOBS}?limit=3&cursor={cursor}" if cursor else ""
        pages += 1

    assert (found, pages) == (names, 3)
    for cursor in ("x", "ä", "e30", "a" * 5000):
        wrong = api("GET", f"{JOBS}?cursor={cursor}".replace("ä", "%C3%A4"))
        assert wrong.status == 400, cursor


def test_a_request_sent_again_creates_nothing_again(api: Api) -> None:
    """Also at the same time; with another body it is told that it was used."""
    with ThreadPoolExecutor(8) as pool:
        answers = [
            one.result()
            for one in [pool.submit(api.create, "train", idempotency_key="k-1") for _ in range(8)]
        ]
    assert sorted(answer.status for answer in answers) == [200] * 7 + [201]
    assert len({answer.body["metadata"]["uid"] for answer in answers}) == 1
    other = {"metadata": {"name": "other"}, "spec": SPEC}
    assert api("POST", JOBS, other, idempotency_key="k-1").status == 422
    assert api("POST", JOBS, other, idempotency_key="k-2").status == 201
    assert api.create("train").status == 409
    assert api.create("train", idempotency_key="k-3").status == 409


def test_no_decoy_is_taken_for_what_a_request_created(api: Api) -> None:
    """Nobody may set its marks; even if they were copied, the job is not what was asked for."""
    made = api.create("train", idempotency_key="k-1").body["metadata"]
    label, digest = "gpujob.dev/idempotency-key", "gpujob.dev/request-digest"
    marks = {"labels": {label: made["labels"][label]}}
    marks |= {"annotations": {digest: made["annotations"][digest]}}
    assert api.create("other", idempotency_key="k-2").body["metadata"]["labels"] != marks["labels"]
    assert api("DELETE", f"{JOBS}/train").status == 202
    eventually("it is gone", lambda: api("GET", f"{JOBS}/train").status == 404)
    decoy = {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": "train", "namespace": api.namespace} | marks,
        "spec": SPEC | {"command": ["steal"]},
    }
    told = api.kubectl.run("create", "-f", "-", text=json.dumps(decoy))
    assert f"only the operator may set {label}, {digest} on a GpuJob" in told.stderr
    sent = {"metadata": {"name": "train"} | marks, "spec": SPEC}
    refused = api("POST", JOBS, sent)
    assert refused.status == 422
    assert [one["field"] for one in refused.body["errors"]] == [
        "metadata.labels",
        "metadata.annotations",
    ]

    server = "--as=system:serviceaccount:gpujob-system:gpujob-server"
    api.kubectl("create", server, "-f", "-", text=json.dumps(decoy))
    assert api.create("train", idempotency_key="k-1").status == 422
    patch = json.dumps({"metadata": {"labels": {label: "x"}}})
    where = ("gpujob", "train", "-n", api.namespace, "--type=merge", "-p")
    assert "only the operator may set" in api.kubectl.run("patch", *where, patch).stderr
    for kept in ({"labels": {"team": "a"}}, {"labels": {label: None}}):
        api.kubectl("patch", *where, json.dumps({"metadata": kept}))


def test_a_request_is_known_after_its_key_was_replaced(api: Api) -> None:
    """The key before stays beside the new one."""
    begun = {"metadata": {"generateName": "train-"}, "spec": SPEC}
    first = api("POST", JOBS, begun, idempotency_key="k-1")
    stored = api.kubectl.get("secret", "gpujob-api-marks", "gpujob-system") or {}
    made = datetime.now(UTC) - 2 * OVERLAP
    new = MarkKey(made, SecretBytes(secrets.token_bytes(32)))
    former = replace(keys_in(stored["data"])[0], made_at=made - LIFE)
    path = path_of("secrets", "gpujob-api-marks", "gpujob-system")
    assert api.kubectl.client.send("PUT", path, stored | {"data": data_of((new, former))})[0] == 200

    def uses_the_new_key() -> bool:
        key = secrets.token_hex(4)
        body = {"metadata": {"generateName": "other-"}, "spec": SPEC}
        labels = api("POST", JOBS, body, idempotency_key=key).body["metadata"]["labels"]
        ours = new.mark("label", "token bootstrap", api.namespace, key)
        return bool(labels["gpujob.dev/idempotency-key"] == ours[:40])

    eventually("the new key is used", uses_the_new_key)
    again = api("POST", JOBS, begun, idempotency_key="k-1")
    assert (first.status, again.status) == (201, 200)
    assert again.body["metadata"]["uid"] == first.body["metadata"]["uid"]


def test_a_watch_tells_what_is_and_what_changes(api: Api) -> None:
    """As server-sent events; gone on with after the last one that was read."""
    assert api.create("first").status == 201
    with closing(api.connect()) as line:
        headers = {"authorization": f"Bearer {api.token}"}
        line.request("GET", f"/v1/namespaces/{api.namespace}/watch/jobs", headers=headers)
        answer = line.getresponse()
        assert (answer.status, answer.getheader("content-type")) == (
            200,
            "text/event-stream; charset=utf-8",
        )

        def next_event() -> tuple[str, str, Any]:
            lines = []
            while text := answer.readline().decode().rstrip("\n"):
                lines.append(text)
            told = dict(text.split(": ", 1) for text in lines)
            return told["event"], told["id"], json.loads(told["data"])

        kind, _, document = next_event()
        assert (kind, document["metadata"]["name"]) == ("added", "first")
        kind, listed_at, _ = next_event()
        assert kind == "listed"
        assert api.create("second").status == 201
        assert api("POST", f"{JOBS}/first/suspend").status == 200
        assert api("DELETE", f"{JOBS}/first").status == 202
        events = [next_event() for _ in range(3)]
        assert [(kind, one["metadata"]["name"]) for kind, _, one in events] == [
            ("added", "second"),
            ("modified", "first"),
            ("deleted", "first"),
        ]
    with closing(api.connect()) as line:
        headers["last-event-id"] = listed_at
        line.request("GET", f"/v1/namespaces/{api.namespace}/watch/jobs", headers=headers)
        answer = line.getresponse()
        assert next_event()[0] == "listed"
        assert [next_event()[0] for _ in range(3)] == ["added", "modified", "deleted"]


# --- Bad input --------------------------------------------------------------------------------


def job_text(text: str) -> bytes:
    """A body with some text in place of its spec."""
    return f'{{"metadata": {{"name": "bad"}}, "spec": {text}}}'.encode()


GOOD_SPEC = json.dumps(SPEC)
BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, ""),
    "a word": (b"job", 400, ""),
    "half an object": (b'{"metadata": {"name"', 400, ""),
    "a list": (b"[]", 400, "the object"),
    "null": (b"null", 400, "the object"),
    "a text": (b'"job"', 400, "the object"),
    "no spec": (b'{"metadata": {"name": "bad"}}', 400, "spec"),
    "no name": (f'{{"metadata": {{}}, "spec": {GOOD_SPEC}}}'.encode(), 400, "metadata"),
    "another namespace": (
        f'{{"metadata": {{"name": "bad", "namespace": "other"}}, "spec": {GOOD_SPEC}}}'.encode(),
        422,
        "metadata.namespace",
    ),
    "another kind": (b'{"kind": "Pod", ' + job_text(GOOD_SPEC)[1:], 400, "kind"),
    "another version": (b'{"apiVersion": "v1", ' + job_text(GOOD_SPEC)[1:], 400, "apiVersion"),
    "no command": (
        job_text(GOOD_SPEC.replace('["python3"]', "null")),
        400,
        "spec.command",
    ),
    "an unknown field": (b'{"more": 1, ' + job_text(GOOD_SPEC)[1:], 400, "more"),
    "an unknown field within": (job_text(GOOD_SPEC[:-1] + ', "x": 1}'), 400, "spec.x"),
    "a finalizer": (
        f'{{"metadata": {{"name": "bad", "finalizers": []}}, "spec": {GOOD_SPEC}}}'.encode(),
        400,
        "metadata.finalizers",
    ),
    "a wrong type": (job_text('{"image": 1}'), 400, "spec.image"),
    "a number as text": (
        job_text(GOOD_SPEC[:-1] + ', "backoffLimit": "2"}'),
        400,
        "spec.backoffLimit",
    ),
    "a name with a path": (
        job_text(GOOD_SPEC).replace(b'"bad"', b'"../bad"'),
        400,
        "metadata.name",
    ),
    "a key twice": (job_text('{"image": "a", "image": "b"}'), 400, ""),
    "a number that is none by then": (
        job_text(GOOD_SPEC[:-1] + ', "backoffLimit": 1e999}'),
        400,
        "",
    ),
    "no UTF-8": (job_text(GOOD_SPEC).replace(b"bad", b"b\xffd"), 400, ""),
    "UTF-16": (job_text(GOOD_SPEC).decode().encode("utf-16"), 400, ""),
    "not a number": (job_text('{"image": NaN}'), 400, ""),
    "a very long number": (job_text('{"image": ' + "9" * 5000 + "}"), 400, ""),
    "very deep": (b"[" * 50_000 + b"]" * 50_000, 400, ""),
    "deep": (job_text('{"image": ' + "[" * 40 + "]" * 40 + "}"), 400, ""),
    "too large": (job_text(GOOD_SPEC[:-1] + ', "x": "' + "x" * 1_100_000 + '"}'), 413, ""),
    "what the webhook refuses": (
        job_text(GOOD_SPEC.replace("python:3.11", "Python")),
        422,
        "spec.image",
    ),
    "no money": (job_text(GOOD_SPEC.replace("1.00", "0")), 422, "spec.cost.ceiling"),
    "an unknown GPU": (
        job_text(GOOD_SPEC[:-1] + ', "gpu": {"models": ["RTX_4091"]}}'),
        422,
        "spec.gpu.models[0]",
    ),
}


def test_a_wrong_body_changes_nothing(api: Api) -> None:
    """And is told what is wrong, by its field where there is one."""
    for name, (raw, status, where) in BODIES.items():
        answer = api("POST", JOBS, raw)
        assert answer.status == status, (name, answer)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.body["status"] == status
        if where:
            assert where in [one["field"] for one in answer.body["errors"]], (name, answer)
    assert api.kubectl.items("gpujobs", "-n", api.namespace) == []


MANIFEST = {
    "apiVersion": "gpujob.dev/v1alpha1",
    "kind": "GpuJob",
    "metadata": {
        "name": "written",
        "namespace": "{}",
        "creationTimestamp": None,
        "labels": {"team": "vision"},
        "annotations": None,
    },
    "spec": SPEC | {"workingDir": None, "suspend": None, "gpu": {"models": ["h100"]}},
    "status": {},
}


@pytest.mark.parametrize("media", ["application/json", "application/yaml", "text/yaml"])
def test_the_manifest_that_kubectl_takes_is_taken(api: Api, media: str) -> None:
    """As tools write it, with null and an empty status; both store the same."""
    text = json.dumps(MANIFEST).replace("{}", api.namespace, 1)
    if media != "application/json":
        text = yaml.safe_dump(json.loads(text))
    made = api("POST", JOBS, text.encode(), content_type=media)
    assert made.status == 201, made
    assert "'h100' is taken for any of H100 NVL, H100 PCIE, H100 SXM" in made.headers["warning"]
    by_api = api.kubectl.get("gpujob", "written", api.namespace) or {}
    api.kubectl("delete", "gpujob", "written", "-n", api.namespace)
    api.kubectl("apply", "-f", "-", text=text)
    by_kubectl = api.kubectl.get("gpujob", "written", api.namespace) or {}

    assert by_api["spec"] == by_kubectl["spec"]
    assert by_api["metadata"]["labels"] == by_kubectl["metadata"]["labels"] == {"team": "vision"}


def test_a_name_can_be_made_up(api: Api) -> None:
    """A new one for each request, unless it is sent again."""
    body = {"metadata": {"generateName": "sweep-"}, "spec": SPEC}
    first, second = (api("POST", JOBS, body) for _ in range(2))
    sent, again = (api("POST", JOBS, body, idempotency_key="k") for _ in range(2))
    names = [one.body["metadata"]["name"] for one in (first, second, sent)]

    assert [one.status for one in (first, second, sent, again)] == [201, 201, 201, 200]
    assert again.body["metadata"]["uid"] == sent.body["metadata"]["uid"]
    assert len(set(names)) == 3
    assert all(len(one) == 11 and one.startswith("sweep-") for one in names)
    assert first.headers["location"] == f"/v1/namespaces/{api.namespace}/jobs/{names[0]}"


def test_a_whole_number_may_have_a_point(api: Api) -> None:
    """As JSON Schema has it."""
    answer = api("POST", JOBS, job_text(GOOD_SPEC[:-1] + ', "backoffLimit": 2.0}'))

    assert (answer.status, answer.body["spec"]["backoffLimit"]) == (201, 2)


def test_a_method_that_there_is_not_names_those_that_there_are(api: Api) -> None:
    """All of the path's."""
    answer = api("PUT", f"{JOBS}/train", {})

    assert answer.status == 405
    assert answer.headers["allow"] == "DELETE, GET"


def test_other_content_types_are_refused(api: Api) -> None:
    """A form, text, none."""
    raw = job_text(GOOD_SPEC)
    for given in ("text/plain", "application/x-www-form-urlencoded", "application/toml", "json"):
        assert api("POST", JOBS, raw, content_type=given).status == 415
    assert api("POST", JOBS, raw, content_type="application/json; charset=utf-8").status == 201


SELECTORS = (
    "team",
    "!team",
    "! team",
    "team=",
    "team=a",
    "team==a",
    "team != a",
    "a.example/team in (a,b)",
    "team in (a, , b ),example.com/x",
    "team notin(a)",
    "size>3",
    " size < 10 , team = A-b_c.d ",
)


def test_the_label_selectors_of_the_cluster_are_taken(api: Api) -> None:
    """Each that kubectl takes, and none that it refuses."""
    for selector in SELECTORS:
        api.kubectl("get", "gpujobs", "-n", api.namespace, "-l", selector)
        assert api("GET", f"{JOBS}?labelSelector={quote(selector)}").status == 200, selector
    for selector in (
        ",",
        "team a",
        "team=a=b",
        "-a",
        "team in a",
        "size>a",
        "A.B/team",
        "t=" + "a" * 64,
    ):
        tried = api.kubectl.run("get", "gpujobs", "-n", api.namespace, "-l", selector)
        assert tried.returncode != 0, selector
        assert api("GET", f"{JOBS}?labelSelector={quote(selector)}").status == 400, selector


# --- Nothing of ourselves ---------------------------------------------------------------------


def test_an_answer_shows_nothing_of_ourselves(api: Api) -> None:
    """Whatever is asked, and however wrongly."""
    assert api.create("train").status == 201
    wrong = [
        *(api("POST", JOBS, raw) for raw, _, _ in BODIES.values()),
        api("GET", "/v1/namespaces/A/jobs"),
        api("GET", "/v1/namespaces/{}/jobs/..%2f..%2fsecrets"),
        api("GET", f"{JOBS}?limit=x"),
        api("GET", f"{JOBS}?limit=0"),
        api("GET", f"{JOBS}?labelSelector=a%20b%20c"),
        api("GET", f"{JOBS}?cursor=AAAA"),
        api("GET", f"{JOBS}/train/log?attempt=1000001"),
        api("GET", f"{JOBS}/train/log"),
        api("GET", f"{JOBS}/train/log?attempt=3"),
        api("GET", "/v1/namespaces/{}/watch/jobs", last_event_id="x"),
        api("GET", "/v1/namespaces/{}/watch/jobs", last_event_id="9" * 30),
        api("PUT", f"{JOBS}/train", {}),
        api("GET", "/nowhere"),
        api("POST", f"{JOBS}/train/suspend", if_match="nonsense"),
        api("POST", JOBS, b"{}", content_type="text/html"),
        api("POST", JOBS.replace("{}", "nowhere"), {"metadata": {"name": "x"}, "spec": SPEC}),
    ]
    for answer in wrong:
        assert 400 <= answer.status < 500, answer
        assert not INTERNALS.search(answer.raw.decode()), answer
        assert "server" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers


def test_what_is_no_http_gets_no_answer_of_ours(api: Api) -> None:
    """Half a request, another protocol, a line that is cut."""
    for raw in (
        b"",
        b"GET / HT",
        b"\x16\x03\x01\x00\x05hello",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", api.port), timeout=10) as line:
            line.sendall(raw)
            line.shutdown(socket.SHUT_WR)
            said = b""
            try:
                while chunk := line.recv(4096):
                    said += chunk
            except OSError:
                pass
            assert not INTERNALS.search(said.decode("latin-1"))
    assert api("GET", "/openapi.json").status == 200


def test_without_a_cluster_there_is_an_error_id_and_its_cause_in_the_log(
    api: Api, plane: ControlPlane, tmp_path: Path
) -> None:
    """A server of its own, whose API server then is not there; the caller learns the id alone."""
    port = free_port()
    with proxy(plane.url, plane.ca) as between:
        config = operators_config(plane, tmp_path / "config", between.url, account="gpujob-server")
        settings = {
            "GPUJOB_API_PORT": str(port),
            "GPUJOB_API_BOOTSTRAP_TOKEN": BOOTSTRAP,
            "GPUJOB_TRANSPORT_URL": f"https://127.0.0.1:{free_port()}",
        }
        server = AdmissionServer(tmp_path, config, **settings)
        server.start()
        lonely = Api(port, api.authority, api.namespace, api.kubectl, server, BOOTSTRAP)
        eventually("it listens", lonely.answers)
        eventually("it answers", lambda: lonely("GET", "/v1/jobs").status == 200)
    answers = [
        lonely("GET", JOBS),
        lonely.create("train"),
        lonely("GET", f"{JOBS}/train"),
        lonely("GET", "/v1/namespaces/{}/watch/jobs"),
        lonely("GET", "/v1/machines"),
    ]
    foreign = lonely("GET", JOBS, token=unsigned("gpujob.dev/api"))
    assert server.stop() == 0
    for answer in answers:
        assert answer.status == 503, answer
        assert not INTERNALS.search(answer.raw.decode())
        lines = [one for one in server.log.splitlines() if answer.body["errorId"] in one]
        assert len(lines) == 1
        assert json.loads(lines[0])["problem"]
    assert foreign.status == 503
    assert BOOTSTRAP not in server.log


def test_the_access_log_has_no_token(api: Api) -> None:
    """But who asked for what."""
    api("GET", f"{JOBS}?cursor={TOKENS['writer']}", token=TOKENS["writer"])
    eventually("it is told", lambda: '"caller": "token writer"' in api.server.log)
    log = api.server.log

    assert not any(token in log for token in (*TOKENS.values(), BOOTSTRAP))
