"""The webhook and the HTTP API refuse a job that could take what is not its user's.

They are asked without a network.
"""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette

from gpujob.adapters.clock import SystemClock
from gpujob.core.api_tokens import token_of
from gpujob.server.admission import admission_app
from gpujob.server.http_api.app import api_app
from gpujob.server.http_api.callers import Callers
from gpujob.server.http_api.idempotency import MarkKeys

RELEASE = "gpujob-system"
TOKEN = token_of(bytes(range(0, 96, 3)))
SERVER = f"system:serviceaccount:{RELEASE}:server"
GOOD: dict[str, Any] = {
    "image": "python:3.11",
    "command": ["env"],
    "activeDeadlineSeconds": 60,
    "cost": {"ceiling": "1.00"},
}
KEY = {"name": "gpujob-vast", "key": "apiKey"}
WAYS: dict[str, dict[str, Any]] = {
    "a variable": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": KEY}}]},
    "a variable that may be absent": {
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": KEY | {"optional": True}}}]
    },
    "a ConfigMap": {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": KEY}}]},
    "the image's credentials": {
        "imagePullSecret": {"name": "gpujob-vast", "exposeToProvider": True}
    },
    "the driver's credentials": {"driver": {"imagePullSecrets": [{"name": "gpujob-vast"}]}},
    "a claim": {
        "data": {"inputs": [{"claimName": "backup", "path": "/in"}], "log": {"claimName": "x"}}
    },
    "nothing": {},
}
"""What of a namespace a job can name."""


def asked(app: Starlette, path: str, document: Any) -> tuple[int, Any]:
    """Posts a document; returns status and document of the answer."""
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(document).encode(), "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "https"},
        **{"asgi": {"version": "3.0", "spec_version": "2.4"}, "query_string": b""},
        **{"path": path, "raw_path": path.encode(), "root_path": "", "client": ("10.0.0.1", 1)},
        "headers": [
            (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {TOKEN}".encode()),
        ],
    }
    asyncio.run(app(scope, receive, send))
    start, *parts = said
    return start["status"], json.loads(b"".join(part["body"] for part in parts))


def reviewed(
    spec: dict[str, Any],
    namespace: str = "team",
    *,
    user: str = "somebody",
    operation: str = "CREATE",
    **metadata: Any,
) -> str:
    """Returns what the webhook says against a job; empty if nothing."""
    review = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1234",
            "kind": {"group": "gpujob.dev", "version": "v1alpha1", "kind": "GpuJob"},
            "operation": operation,
            "namespace": namespace,
            "userInfo": {"username": user},
            "object": {"metadata": {"name": "job"} | metadata, "spec": spec},
        },
    }
    app = admission_app(SystemClock(), own_namespace=RELEASE, own_account="server")
    status, answer = asked(app, "/validate-gpujobs", review)
    assert status == 200
    return str(answer["response"].get("status", {}).get("message", ""))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", [RELEASE, "kube-system", "kube-public"])
def test_no_job_reads_the_secrets_of_the_release_or_the_cluster(place: str, way: str) -> None:
    """Whatever it names there, nobody creates it: not even the account of the server."""
    spec = GOOD | WAYS[way]

    assert reviewed(spec) == ""
    for user in ("somebody", SERVER, "system:admin"):
        assert f"no GpuJob may be in {place}" in reviewed(spec, place, user=user)
    assert f"no GpuJob may be in {place}" in reviewed(spec, place, operation="UPDATE")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", [RELEASE, "kube-system"])
def test_the_api_creates_none_there_by_itself(place: str, way: str) -> None:
    """The webhook and the policy may be absent: there is no cluster behind this."""
    nobody: Any = None

    class Clock(SystemClock):
        def now(self) -> datetime:
            return datetime(2026, 1, 1, tzinfo=UTC)

    app = api_app(
        kube=nobody,
        clock=Clock(),
        callers=Callers(nobody, Clock(), SecretStr(TOKEN)),
        notes=lambda: None,
        controller=nobody,
        mark_keys=MarkKeys(Clock()),
        own_namespace=RELEASE,
    )
    job = {"metadata": {"name": "train"}, "spec": GOOD | WAYS[way]}
    for route in ("jobs", "estimates"):
        status, told = asked(app, f"/v1/namespaces/{place}/{route}", job)
        assert status == 422
        assert told["errors"][0]["field"] == "metadata.namespace"


def test_only_the_server_creates_jobs_with_its_marks() -> None:
    """Changes of such a job are left to the policy, which knows what was there before."""
    marks: dict[str, Any] = {"labels": {"gpujob.dev/idempotency-key": "x"}}

    assert "only the operator sets it" in reviewed(GOOD, **marks)
    assert "only the operator sets it" in reviewed(
        GOOD, user="system:serviceaccount:team:server", **marks
    )
    assert reviewed(GOOD, user=SERVER, **marks) == ""
    assert reviewed(GOOD, operation="UPDATE", **marks) == ""
    assert reviewed(GOOD, annotations={"gpujob.dev/finished": "job/uid"}) == ""
