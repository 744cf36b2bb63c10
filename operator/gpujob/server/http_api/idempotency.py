"""The Idempotency-Key: a request that is repeated with the same key creates no second job.

The API server is the only store. The job carries a digest of caller and key as a label, by which it
is found again, and a digest of the request. The name of the job makes equal requests exclude each
other. Two different requests that are sent with one key at the same moment may both succeed.
"""

import json
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header

from gpujob.adapters.errors import Conflict
from gpujob.adapters.kube import Body, KubeClient
from gpujob.core.api_tokens import digest_of
from gpujob.server.http_api.bodies import SUFFIX_LENGTH
from gpujob.server.http_api.callers import Caller
from gpujob.web.problems import Problem

KEY_LABEL = "gpujob.dev/idempotency-key"
REQUEST_ANNOTATION = "gpujob.dev/request-digest"


@dataclass(frozen=True)
class Idempotency:
    """A key that the caller has sent."""

    key: str

    async def create(
        self, kube: KubeClient, caller: Caller, namespace: str, body: Body
    ) -> tuple[Body, bool]:
        """Creates a job, or finds the one that an earlier request with the key has created.

        Returns the stored job, and whether it is new. Raises Problem if the earlier request was
        another one, and what creating raises.
        """
        label = digest_of(f"{caller.name}\n{self.key}")[:40]
        digest = digest_of(json.dumps(body, sort_keys=True))
        metadata = dict(body["metadata"])
        if (begins := metadata.pop("generateName", None)) is not None:
            # Sent again, it must get the same name: that is what makes equal requests exclude each
            # other.
            metadata["name"] = begins + label[:SUFFIX_LENGTH]
        marked = body | {
            "metadata": metadata
            | {
                "labels": metadata["labels"] | {KEY_LABEL: label},
                "annotations": metadata["annotations"] | {REQUEST_ANNOTATION: digest},
            }
        }
        if (earlier := await _earlier(kube, namespace, label, digest)) is not None:
            return earlier, False
        try:
            return await kube.create_strictly("GpuJob", namespace, marked), True
        except Conflict:
            # The same request may have been sent twice at the same time.
            if (earlier := await _earlier(kube, namespace, label, digest)) is None:
                raise
            return earlier, False


async def _earlier(kube: KubeClient, namespace: str, label: str, digest: str) -> Body | None:
    """Returns what an earlier request with this key created; raises Problem if it was another."""
    found, _, _ = await kube.page("GpuJob", namespace, limit=1, selector=f"{KEY_LABEL}={label}")
    if not found:
        return None
    marks = found[0]["metadata"].get("annotations") or {}
    if marks.get(REQUEST_ANNOTATION) != digest:
        raise Problem(422, "this Idempotency-Key was used for a different request")
    return found[0]


async def idempotency(
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="A request that is sent again with the same key creates nothing again.",
        ),
    ] = None,
) -> Idempotency | None:
    """Reads the header, if there is one."""
    return None if idempotency_key is None else Idempotency(idempotency_key)
