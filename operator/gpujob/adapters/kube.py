"""The Kubernetes API: the few verbs that we use, on plain documents.

`kubernetes.aio` gives configuration and transport; bodies are dicts, since its models drop what is
newer than themselves. Every call has a timeout, every failure a type of ours.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
from kubernetes.aio import client, config

from gpujob.adapters.errors import (
    ClusterError,
    ClusterUnavailable,
    Conflict,
    Forbidden,
    Invalid,
    ObjectGone,
)

Body = dict[str, Any]

REQUEST_SECONDS = 15.0
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

PATHS = {
    "GpuJob": "/apis/gpujob.dev/v1alpha1/{namespaces}gpujobs",
    "GpuNode": "/apis/gpujob.dev/v1alpha1/{namespaces}gpunodes",
    "Pod": "/api/v1/{namespaces}pods",
    "Secret": "/api/v1/{namespaces}secrets",
    "ConfigMap": "/api/v1/{namespaces}configmaps",
    "Event": "/apis/events.k8s.io/v1/{namespaces}events",
    "Namespace": "/api/v1/namespaces",
    "Service": "/api/v1/{namespaces}services",
    "Lease": "/apis/coordination.k8s.io/v1/{namespaces}leases",
    "ValidatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/"
    "validatingwebhookconfigurations",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/{namespaces}endpointslices",
}


class KubeClient:
    """A client of one cluster."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    @classmethod
    async def connect(cls) -> Self:
        """Connects as a pod if this is one, else by the kubeconfig; raises ClusterError."""
        configuration = client.Configuration()
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=configuration)
            else:
                await config.load_kube_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise ClusterError(f"no way to reach a cluster: {error}") from error
        return cls(client.ApiClient(configuration))

    async def close(self) -> None:
        """Closes the connections."""
        await self._api.close()

    async def get(self, kind: str, namespace: str, name: str) -> Body:
        """Returns one object by a quorum read; raises ObjectGone."""
        return await self._call("GET", _path(kind, namespace, name))

    async def find(self, kind: str, namespace: str, name: str) -> Body | None:
        """Returns one object by a quorum read, or None if there surely is none."""
        try:
            return await self.get(kind, namespace, name)
        except ObjectGone:
            return None

    async def list_all(self, kind: str, selector: str = "") -> list[Body]:
        """Returns all objects of a kind in all namespaces, by quorum reads in pages."""
        found: list[Body] = []
        token = ""
        while True:
            query = {"limit": "500"}
            query |= {"continue": token} if token else {}
            query |= {"labelSelector": selector} if selector else {}
            page = await self._call("GET", _path(kind, None), query=query)
            found += page["items"]
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return found

    async def create(self, kind: str, namespace: str, body: Body) -> Body:
        """Creates an object; raises Conflict if the name is taken."""
        return await self._call("POST", _path(kind, namespace), body=body)

    async def replace(self, kind: str, stored: Mapping[str, Any]) -> Body:
        """Replaces an object, if it is still of this version; raises Conflict if it is not."""
        meta = stored["metadata"]
        path = _path(kind, meta.get("namespace"), meta["name"])
        return await self._call("PUT", path, body={**stored})

    async def write_status(self, kind: str, stored: Mapping[str, Any], status: Body) -> Body:
        """Replaces the status of exactly the stored version; raises Conflict if it has changed."""
        meta = stored["metadata"]
        body = {**stored, "status": status}
        path = _path(kind, meta["namespace"], meta["name"]) + "/status"
        return await self._call("PUT", path, body=body)

    async def set_finalizers(
        self, kind: str, stored: Mapping[str, Any], finalizers: list[str]
    ) -> Body:
        """Replaces the finalizers of exactly the stored version; raises Conflict."""
        meta = stored["metadata"]
        body = {
            "metadata": {
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
                "finalizers": finalizers,
            }
        }
        path = _path(kind, meta["namespace"], meta["name"])
        return await self._call("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Deletes an object, if given only the one with this uid; that it is gone is no error."""
        body: Body = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._call("DELETE", _path(kind, namespace, name), body=body)
        except ObjectGone:
            return

    async def review_token(self, token: str, audience: str | None = None) -> Body:
        """Returns the status of a TokenReview: who presents this token.

        Without an audience it must be one for the API server itself.
        """
        spec: Body = {"token": token}
        spec |= {"audiences": [audience]} if audience else {}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": spec,
        }
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        answer = await self._call("POST", path, body=body)
        status: Body = answer.get("status") or {}
        return status

    async def own_rules(self, namespace: str) -> tuple[list[Body], bool]:
        """Returns the rules by which we may act in a namespace, and whether these are all."""
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        status = (await self._call("POST", path, body=body)).get("status") or {}
        return status.get("resourceRules") or [], not status.get("incomplete")

    async def may_read(self, user: Body, path: str) -> bool:
        """Returns whether a user, as a TokenReview names one, may read a path of ours."""
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.get("username", ""),
                "groups": user.get("groups") or [],
                "uid": user.get("uid", ""),
                "extra": user.get("extra") or {},
                "nonResourceAttributes": {"path": path, "verb": "get"},
            },
        }
        answer = await self._call(
            "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body=body
        )
        return (answer.get("status") or {}).get("allowed") is True

    async def served_resources(self, group_version: str) -> frozenset[str]:
        """Returns the plural names that the API server serves of a group; empty if none."""
        try:
            found = await self._call("GET", f"/apis/{group_version}")
        except ObjectGone:
            return frozenset()
        return frozenset(one["name"] for one in found.get("resources") or [])

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        content_type: str = "application/json",
    ) -> Body:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        async with _translated(method, path):
            request = await self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(*request, _request_timeout=REQUEST_SECONDS)
            raw = await response.read()
        return _answer(method, path, response.status, raw)


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    path = PATHS[kind].replace("{namespaces}", f"namespaces/{namespace}/" if namespace else "")
    return f"{path}/{name}" if name else path


@asynccontextmanager
async def _translated(method: str, path: str) -> AsyncIterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        words = f"{method} {path}: {type(error).__name__}: {error}"
        raise ClusterUnavailable(words) from error


def _answer(method: str, path: str, status: int, raw: bytes) -> Body:
    try:
        body: Body = json.loads(raw)
    except ValueError:
        body = {"message": raw[:200].decode("utf-8", "replace")}
    if 200 <= status < 300:
        return body
    words = f"{method} {path}: {status}: {body.get('message', '')}"
    match status:
        case 404:
            raise ObjectGone(words)
        case 409:
            raise Conflict(words)
        case 401 | 403:
            raise Forbidden(words)
        case 400 | 422:
            raise Invalid(words)
        case _:
            raise ClusterUnavailable(words)
