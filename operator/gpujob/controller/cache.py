"""The objects as the watch last saw them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import LABEL_NODE
from gpujob.controller.workqueue import Key


@dataclass
class Cache:
    """Answers drivers without a call to the API server, and finds the objects of an event."""

    nodes: dict[str, GpuNode] = field(default_factory=dict)
    """Nodes by uid."""
    jobs: dict[str, GpuJob] = field(default_factory=dict)
    """Jobs by uid."""

    def lookup(self, node_uid: str) -> tuple[GpuNode | None, GpuJob | None]:
        """Returns the node with this uid, and its job."""
        node = self.nodes.get(node_uid)
        return node, self.jobs.get(node.spec.job_ref.uid) if node else None

    def take_in(self, kind: str, body: dict[str, Any], gone: bool) -> Iterator[Key]:
        """Stores the object of an event, and yields the keys to reconcile because of it."""
        meta = body["metadata"]
        namespace, name, uid = meta["namespace"], meta["name"], meta["uid"]
        if kind == "Pod":
            if node_name := meta.get("labels", {}).get(LABEL_NODE):
                yield Key("GpuNode", namespace, node_name)
            return
        yield Key(kind, namespace, name)
        try:
            if kind == "GpuJob":
                job = GpuJob.model_validate(body)
                self.jobs[uid] = job
                if job.status.node_name:
                    yield Key("GpuNode", namespace, job.status.node_name)
            else:
                node = GpuNode.model_validate(body)
                self.nodes[uid] = node
                yield Key("GpuJob", namespace, node.spec.job_ref.name)
        except ValidationError:
            # The pass over the object reports this in its status.
            pass
        if gone:
            self.jobs.pop(uid, None)
            self.nodes.pop(uid, None)
