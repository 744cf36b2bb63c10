"""The Kubernetes API: the few verbs that we use, on plain documents.

`kubernetes.aio` provides configuration and transport. Bodies are dicts, because its models drop
fields that are newer than the client (DECISIONS.md, Dict bodies, not the client's models). Every
call has a time-out, and every failure becomes one of our own errors.
"""

import json
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
from kubernetes.aio import client, config
from pydantic import SecretStr

from gpujob.adapters.body import whole_body
from gpujob.adapters.errors import (
    AnswerTooLarge,
    ClusterError,
    ClusterUnavailable,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotServed,
    ObjectGone,
)

Body = dict[str, Any]

REQUEST_SECONDS = 15.0
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

PATHS = {
    "GpuJob": "/apis/gpujob.dev/v1alpha1/{namespaces}gpujobs",
    "GpuNode": "/apis/gpujob.dev/v1alpha1/{namespaces}gpunodes",
    "GpuBudget": "/apis/gpujob.dev/v1alpha1/{namespaces}gpubudgets",
    "GpuJobProfile": "/apis/gpujob.dev/v1alpha1/{namespaces}gpujobprofiles",
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
    "Workload": "/apis/kueue.x-k8s.io/v1beta2/{namespaces}workloads",
    "WorkloadPriorityClass": "/apis/kueue.x-k8s.io/v1beta2/workloadpriorityclasses",
}


PAGE_OBJECTS = 50
"""A list is read in pages of so many objects: nothing else goes on in the process while the JSON of
one page is read, and each may be as large as etcd takes it."""
PAGE_METADATA = 500
"""Of names and versions alone, which are short."""
ANSWER_BYTES_MAX = 16 << 20
"""No single object is so large, even if each of its letters is written as six characters."""
PAGE_BYTES_MAX = 4 << 20


async def pages(
    kube: "KubeClient",
    kind: str,
    selector: str = "",
    fields: str = "",
    namespace: str | None = None,
) -> AsyncIterator[list[Body]]:
    """Yields all objects of a kind in a namespace, None = in all that are served, page after page,
    by quorum reads. With selectors of labels or fields, those that match.
    """
    token = ""
    while True:
        page, token, _ = await kube.page(
            kind, namespace, limit=PAGE_OBJECTS, token=token, selector=selector, fields=fields
        )
        yield page
        if not token:
            return


class KubeClient:
    """A client of one cluster, or of some of its namespaces."""

    def __init__(self, api: client.ApiClient, namespaces: Sequence[str] = ()) -> None:
        self._api = api
        self._namespaces = tuple(namespaces)

    @classmethod
    async def connect(cls, program: str, namespaces: Sequence[str] = ()) -> Self:
        """Connects as a pod if this is one, else by the kubeconfig; raises ClusterError.

        `program` is what the API server's audit log calls us, and an object's managed fields. With
        `namespaces`, what is asked of all namespaces is asked of these, one after the other.
        """
        # Else aiohttp reads ~/.netrc before each request, in another thread: a fifth of our work.
        configuration = client.Configuration(client_session_kwargs={"trust_env": False})
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=configuration)
            else:
                await config.load_kube_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise ClusterError(
                f"found neither a pod's service account nor a usable kubeconfig: {error}"
            ) from error
        api = client.ApiClient(configuration)
        api.user_agent = program
        return cls(api, namespaces)

    async def close(self) -> None:
        """Closes the connections."""
        await self._api.close()

    async def get(self, kind: str, namespace: str, name: str) -> Body:
        """Returns one object by a quorum read; raises ObjectGone."""
        return await self._call("GET", _path(kind, namespace, name))

    async def find(self, kind: str, namespace: str, name: str) -> Body | None:
        """Returns one object by a quorum read, or None if the API server says there is none."""
        try:
            return await self.get(kind, namespace, name)
        except ObjectGone:
            return None

    async def version(self, kind: str, namespace: str, name: str) -> str:
        """Returns an object's version without the object, by a quorum read; raises ObjectGone."""
        path = _path(kind, namespace, name)
        return str((await self._call("GET", path, accept=METADATA))["metadata"]["resourceVersion"])

    async def versions(self, kind: str, namespace: str | None) -> dict[tuple[str, str], str]:
        """Returns the versions of all objects of a kind in a namespace, None = in all, without the
        objects, by namespace and name; by quorum reads.
        """
        found: dict[tuple[str, str], str] = {}
        token = ""
        while True:
            query = {"limit": str(PAGE_METADATA)} | ({"continue": token} if token else {})
            path = _path(kind, namespace)
            answer = await self._call("GET", path, query=query, accept=METADATA_LIST)
            if answer.get("items", ...) is None:
                # So the API server says that there is none.
                answer["items"] = []
            for one in _items("PartialObjectMetadata", answer):
                meta = one["metadata"]
                found[(meta["namespace"], meta["name"])] = meta["resourceVersion"]
            token = (answer.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    async def list_all(self, kind: str, selector: str = "", fields: str = "") -> list[Body]:
        """Returns all objects of a kind in all namespaces that are served, by quorum reads."""
        return [body async for page in pages(self, kind, selector, fields) for body in page]

    async def page(
        self,
        kind: str,
        namespace: str | None,
        *,
        limit: int,
        token: str = "",
        selector: str = "",
        fields: str = "",
        bytes_max: int = PAGE_BYTES_MAX,
    ) -> tuple[list[Body], str, str]:
        """Returns one page of objects, the token of the next page, and the version of the list.

        It has fewer objects than `limit` if they would take more than so many bytes.

        Without a namespace they are those of all namespaces that are served; a page may then be
        empty although more follow. Raises Expired if the token is too old, and Invalid if it is not
        a token, or if the API server selects by no such field.
        """
        if namespace is None and self._namespaces:
            number, token = _place(token, len(self._namespaces))
            items, token, version = await self._page(
                kind, self._namespaces[number], limit, token, selector, fields, bytes_max
            )
            if not token and number + 1 < len(self._namespaces):
                number += 1
            elif not token:
                return items, "", version
            return items, f"{number}/{token}", version
        return await self._page(kind, namespace, limit, token, selector, fields, bytes_max)

    async def _page(
        self,
        kind: str,
        namespace: str | None,
        limit: int,
        token: str,
        selector: str,
        fields: str,
        bytes_max: int,
    ) -> tuple[list[Body], str, str]:
        query = {"limit": str(limit)}
        query |= {"continue": token} if token else {}
        query |= {"labelSelector": selector} if selector else {}
        query |= {"fieldSelector": fields} if fields else {}
        try:
            most = bytes_max if limit > 1 else ANSWER_BYTES_MAX
            answer = await self._call("GET", _path(kind, namespace), query=query, bytes_max=most)
        except AnswerTooLarge:
            if limit == 1:
                raise
            return await self._page(
                kind, namespace, limit // 4 or 1, token, selector, fields, bytes_max
            )
        meta = answer.get("metadata") or {}
        return _items(kind, answer), meta.get("continue") or "", meta.get("resourceVersion") or ""

    @asynccontextmanager
    async def watch(
        self, kind: str, namespace: str | None, *, version: str, seconds: int
    ) -> AsyncIterator[AsyncIterator[Body]]:
        """Watches one namespace, or all, from a version on, for at most so many seconds.

        Raises Expired if the version is too old: when the watch is opened, or while it is read.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        async with self._stream(_path(kind, namespace), query, seconds) as content:
            yield _events(content)

    @asynccontextmanager
    async def pod_log(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        follow: bool,
        tail: int | None,
        seconds: int,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Opens the log of a pod's container, with `follow` also what it still prints.

        It is open for at most so many seconds. Raises ObjectGone, or Invalid if the container has
        not started yet.
        """
        query = {"container": container, "follow": "true" if follow else "false"}
        query |= {"tailLines": str(tail)} if tail is not None else {}
        path = f"{_path('Pod', namespace, pod)}/log"
        async with self._stream(path, query, seconds) as content:
            yield content.iter_any()

    async def create(self, kind: str, namespace: str, body: Body) -> Body:
        """Creates an object; raises Conflict if the name is taken."""
        return await self._call("POST", _path(kind, namespace), body=body)

    async def create_strictly(self, kind: str, namespace: str, body: Body) -> Body:
        """Creates an object as a user wrote it; raises Invalid for fields that its kind lacks."""
        strict = {"fieldValidation": "Strict"}
        return await self._call("POST", _path(kind, namespace), query=strict, body=body)

    async def merge(self, kind: str, namespace: str, name: str, patch: Body) -> Body:
        """Merges a patch into an object; raises Conflict if the patch names another version."""
        path = _path(kind, namespace, name)
        return await self._call("PATCH", path, body=patch, content_type=MERGE_PATCH)

    async def replace(self, kind: str, stored: Mapping[str, Any]) -> Body:
        """Replaces an object if it still has this version; raises Conflict otherwise."""
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
        self,
        kind: str,
        stored: Mapping[str, Any],
        finalizers: list[str],
        annotations: Mapping[str, str] | None = None,
    ) -> Body:
        """Replaces the finalizers of exactly the stored version, and adds annotations to its own;
        raises Conflict if it changed.
        """
        meta = stored["metadata"]
        body = {
            "metadata": {
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
                "finalizers": finalizers,
                "annotations": dict(annotations or {}),
            }
        }
        path = _path(kind, meta["namespace"], meta["name"])
        return await self._call("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Deletes an object, with `uid` only that very one; it may be gone already."""
        await self._delete(kind, namespace, name, {"uid": uid} if uid is not None else {})

    async def delete_version(
        self, kind: str, namespace: str, name: str, *, uid: str, version: str
    ) -> None:
        """Deletes an object only if it still has this version; raises Conflict otherwise."""
        await self._delete(kind, namespace, name, {"uid": uid, "resourceVersion": version})

    async def _delete(
        self, kind: str, namespace: str, name: str, preconditions: Mapping[str, str]
    ) -> None:
        body: Body = {"propagationPolicy": "Background"}
        body |= {"preconditions": dict(preconditions)} if preconditions else {}
        try:
            await self._call("DELETE", _path(kind, namespace, name), body=body)
        except ObjectGone:
            return

    async def everywhere(self, kind: str, selector: str) -> list[Body]:
        """Returns all objects of a kind in the whole cluster, by quorum reads."""
        found: list[Body] = []
        token = ""
        while True:
            page, token, _ = await self._page(
                kind, None, PAGE_OBJECTS, token, selector, "", PAGE_BYTES_MAX
            )
            found += page
            if not token:
                return found

    async def token_keys(self) -> tuple[str, list[Body]]:
        """Returns the issuer of service accounts' tokens, and the keys that it signs with, as JSON
        Web Keys (RFC 7517). Every service account may read them.
        """
        told = await self._call("GET", "/.well-known/openid-configuration")
        found = await self._call("GET", "/openid/v1/jwks", accept="application/jwk-set+json")
        keys = found.get("keys")
        if not isinstance(told.get("issuer"), str) or not isinstance(keys, list):
            raise ClusterUnavailable("the API server does not say by which keys it signs tokens")
        return told["issuer"], [one for one in keys if isinstance(one, dict)]

    async def review_token(self, token: SecretStr, audience: str | None = None) -> Body:
        """Returns the status of a TokenReview: whose token this is.

        Without an audience, it must be a token for the API server itself.
        """
        spec: Body = {"token": token.get_secret_value()}
        spec |= {"audiences": [audience]} if audience else {}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": spec,
        }
        return await self._review("/apis/authentication.k8s.io/v1/tokenreviews", body)

    async def own_rules(self, namespace: str) -> tuple[list[Body], bool]:
        """Returns the rules that say what we may do in a namespace, and if the list is complete."""
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        status = await self._review(path, body)
        return status.get("resourceRules") or [], not status.get("incomplete")

    async def may_reach(self, user: Body, path: str, verb: str) -> bool:
        """Returns whether a user, in the form of a TokenReview, may reach a path of our listeners.

        `verb` is the HTTP method in lower case.
        """
        return await self._may(user, {"nonResourceAttributes": {"path": path, "verb": verb}})

    async def may(self, user: Body, *, verb: str, resource: str, namespace: str) -> bool:
        """Returns whether a user may do something to a resource.

        `resource` is `group/plural` or `group/plural/subresource`; the core group is empty, as in
        `/pods/log`. An empty namespace stands for all namespaces.
        """
        group, _, plural = resource.partition("/")
        plural, _, part = plural.partition("/")
        attributes = {"group": group, "resource": plural, "subresource": part, "verb": verb}
        return await self._may(user, {"resourceAttributes": attributes | {"namespace": namespace}})

    async def _may(self, user: Body, attributes: Body) -> bool:
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.get("username", ""),
                "groups": user.get("groups") or [],
                "uid": user.get("uid", ""),
                "extra": user.get("extra") or {},
                **attributes,
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return (await self._review(path, body)).get("allowed") is True

    async def _review(self, path: str, body: Body) -> Body:
        """Returns the status of a review; raises ClusterUnavailable if the answer is none."""
        answer = await self._call("POST", path, body=body)
        status = answer.get("status")
        if answer.get("kind") != body["kind"] or not isinstance(status, dict):
            raise ClusterUnavailable(f"POST {path}: the answer is not a {body['kind']}")
        return status

    async def served_resources(self, group_version: str) -> frozenset[str]:
        """Returns the plural names that a group version serves; none if it is not served."""
        try:
            found = await self._call("GET", f"/apis/{group_version}")
        except NotServed:
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
        accept: str = "application/json",
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Body:
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        async with _translated(method, path):
            # Without the body, which is JSON already: it would be copied, member by member.
            _, url, sent, _, _ = await self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(
                method, url, sent, body, _request_timeout=REQUEST_SECONDS
            )
            try:
                raw = await whole_body(response.response, bytes_max)
            finally:
                # Nobody else ends the connection of an answer that was not read to its end.
                response.response.release()
        if raw is None:
            words = f"the answer has more than {bytes_max} bytes"
            raise AnswerTooLarge(f"{method} {path}: {words}", words)
        return _answer(method, path, response.status, raw)

    @asynccontextmanager
    async def _stream(
        self, path: str, query: Mapping[str, str], seconds: int
    ) -> AsyncIterator[aiohttp.StreamReader]:
        async with _translated("GET", path):
            request = await self._api.param_serialize(
                "GET",
                path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json, */*"},
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(
                *request, _request_timeout=REQUEST_SECONDS + seconds
            )
            try:
                if response.status != 200:
                    raw = await whole_body(response.response, ANSWER_BYTES_MAX)
                    _answer("GET", path, response.status, raw or b"")
                yield response.response.content
            finally:
                response.response.close()


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[Body]:
    async for line in _lines(content):
        event: Body = json.loads(line)
        if event["type"] == "ERROR":
            _answer("GET", "watch", int(event["object"].get("code", 500)), line)
        yield event


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yields lines of any length: an object may be longer than the reader's limit for a line."""
    kept = bytearray()
    async for chunk in content.iter_any():
        kept += chunk
        *lines, rest = kept.split(b"\n")
        kept = bytearray(rest)
        for line in lines:
            if line:
                yield bytes(line)


def _place(token: str, count: int) -> tuple[int, str]:
    """Returns in which of so many namespaces a page is, and its token there; raises Invalid."""
    number, _, rest = (token or "0/").partition("/")
    if not re.fullmatch("[0-9]{1,6}", number) or int(number) >= count:
        raise Invalid("the token of the page is not valid")
    return int(number), rest


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    path = PATHS[kind].replace("{namespaces}", f"namespaces/{namespace}/" if namespace else "")
    return f"{path}/{name}" if name else path


@asynccontextmanager
async def _translated(method: str, path: str) -> AsyncIterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ClusterUnavailable(f"{method} {path}: {said}", f"no answer: {said}") from error


def _items(kind: str, answer: Body) -> list[Body]:
    """Returns the items of a list; raises ClusterUnavailable if the answer is not such a list.

    The check matters: an object that is missing from a list counts as gone, and its machine is
    destroyed.
    """
    items = answer.get("items")
    if answer.get("kind") != f"{kind}List" or not isinstance(items, list):
        raise ClusterUnavailable(f"asked for a list of {kind}, but the answer is something else")
    return items


def _answer(method: str, path: str, status: int, raw: bytes) -> Body:
    try:
        body: Body = json.loads(raw)
        is_object = isinstance(body, dict)
    except ValueError:
        is_object = False
    if not is_object:
        body = {"message": raw[:200].decode("utf-8", "replace")}
    if 200 <= status < 300:
        if not is_object:
            raise ClusterUnavailable(
                f"{method} {path}: {status}, but the answer is not a JSON object"
            )
        return body
    message = str(body.get("message") or "")
    words, said = f"{method} {path}: {status}: {message}", message or f"status {status}"
    details = body.get("details")
    causes = (details.get("causes") if isinstance(details, dict) else None) or []
    match status:
        case 410:
            raise Expired(words, said)
        case 504 if any(one.get("reason") == "ResourceVersionTooLarge" for one in causes):
            raise Expired(words, said)
        case 404 if body.get("kind") != "Status":
            # A proxy does not know the path, or the kind is not served: no object is gone.
            raise NotServed(words, said)
        case 404:
            raise ObjectGone(words, said)
        case 409:
            raise Conflict(words, said)
        case 401 | 403:
            raise Forbidden(words, said)
        case 400 | 422:
            told = ((str(c.get("field", "")), str(c.get("message", ""))) for c in causes)
            raise Invalid(words, tuple(told), said)
        case _:
            raise ClusterUnavailable(words, said)
