"""The Idempotency-Key: a request that is repeated with the same key creates no second job.

The API server is the only store. The job carries a mark of caller and key as a label, by which it
is found again, and a mark of the request. Only this server can make them: the key of the marks is
in a Secret (`core/mark_keys.py`). The name of the job makes equal requests exclude each other. Two
different requests that are sent with one key at the same moment may both succeed.
"""

import asyncio
import hmac
import json
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Header
from pydantic import ValidationError

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ClusterError, Conflict
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.meta import GROUP
from gpujob.core.mark_keys import MarkKey, key_to_use, keys_in, mark_keys_secret
from gpujob.server.http_api.bodies import SUFFIX_LENGTH
from gpujob.server.http_api.callers import Caller
from gpujob.web.problems import Problem

KEY_LABEL = f"{GROUP}/idempotency-key"
REQUEST_ANNOTATION = f"{GROUP}/request-digest"
LABEL_LENGTH = 40
FOUND_MAX = 10
KEPT = ("image", "command", "args", "env", "data")
"""Parts of a spec that stay as they were created."""

log = structlog.get_logger("gpujob.http_api")


class MarkKeys:
    """The keys of marks, as of the last look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.known: tuple[MarkKey, ...] = ()

    def take_in(self, stored: Body | None) -> None:
        """Takes in the Secret; without a key in it those of before stay."""
        found = keys_in((stored or {}).get("data") or {})
        if found and found != self.known:
            log.info("mark_keys_read", keys=len(found))
            self.known = found

    def in_use(self) -> MarkKey:
        """Returns the key to mark with; raises Problem if there is none yet."""
        if (key := key_to_use(self.known, self._clock.now())) is None:
            words = "no Idempotency-Key can be taken yet: the controller makes the key for it first"
            raise Problem(503, words)
        return key

    async def follow(self, kube: KubeClient, namespace: str, name: str, seconds: float) -> None:
        """Reads them regularly."""
        while True:
            try:
                self.take_in(await kube.find("Secret", namespace, mark_keys_secret(name)))
            except ClusterError as error:
                log.warning("mark_keys_not_read", problem=str(error))
            await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Idempotency:
    """A key that the caller has sent."""

    key: str

    async def create(
        self, kube: KubeClient, keys: MarkKeys, caller: Caller, namespace: str, body: Body
    ) -> tuple[Body, bool]:
        """Creates a job, or finds the one that an earlier request with the key has created.

        Returns the stored job, and whether it is new. Raises Problem if the earlier request was
        another one, and what creating raises.
        """
        whose = (caller.name, namespace, self.key)
        request = json.dumps(body, sort_keys=True)

        def marks(key: MarkKey) -> tuple[str, str]:
            label = key.mark("label", *whose)[:LABEL_LENGTH]
            return label, key.mark("request", *whose, request)

        label, digest = marks(keys.in_use())
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
        known = dict(map(marks, keys.known))
        if (earlier := await _earlier(kube, namespace, known, body)) is not None:
            return earlier, False
        try:
            return await kube.create_strictly("GpuJob", namespace, marked), True
        except Conflict:
            # The same request may have been sent twice at the same time.
            if (earlier := await _earlier(kube, namespace, known, body)) is None:
                raise
            return earlier, False


async def _earlier(
    kube: KubeClient, namespace: str, known: dict[str, str], body: Body
) -> Body | None:
    """Returns what an earlier request with this key created; raises Problem if it was another.

    `known` is the request's mark by its label, as each of the keys makes them.
    """
    selector = f"{KEY_LABEL} in ({','.join(known)})"
    found, _, _ = await kube.page("GpuJob", namespace, limit=FOUND_MAX, selector=selector)
    for one in found:
        meta = one["metadata"]
        told = (meta.get("annotations") or {}).get(REQUEST_ANNOTATION, "")
        label = meta["labels"][KEY_LABEL]
        if hmac.compare_digest(told.encode(), known[label].encode()) and _is_of(one, body):
            return one
    if found:
        raise Problem(422, "this Idempotency-Key was used for a different request")
    return None


def _is_of(stored: Body, body: Body) -> bool:
    """Whether a job is what this request asks for: its marks may have been copied to another."""
    try:
        theirs, asked = (GpuJobSpec.model_validate(one["spec"]) for one in (stored, body))
    except ValidationError:
        return False
    name = body["metadata"].get("name", stored["metadata"]["name"])
    is_same = all(getattr(theirs, part) == getattr(asked, part) for part in KEPT)
    return is_same and bool(stored["metadata"]["name"] == name)


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
