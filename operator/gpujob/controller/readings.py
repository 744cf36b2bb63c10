"""Stored objects in the operator's words: each version is read once.

A pass mostly finds the version that the last pass over the object found.
"""

from collections.abc import Callable
from typing import TypeVar

from gpujob.adapters.kube import Body
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.controller.workqueue import Key

Read = TypeVar("Read", GpuJob, GpuNode)


class Readings:
    """Holds what was read last of each object that is stored, and that `keeps` says is needed."""

    def __init__(self, keeps: Callable[[Key], bool]) -> None:
        self._keeps = keeps
        self._last: dict[Key, GpuJob | GpuNode] = {}

    def read(self, model: type[Read], key: Key, body: Body) -> Read:
        """Returns an object as it is stored; may raise ValidationError."""
        last, meta = self._last.get(key), body["metadata"]
        if isinstance(last, model) and (last.metadata.uid, last.metadata.resource_version) == (
            meta["uid"],
            meta["resourceVersion"],
        ):
            return last
        found = model.model_validate(body)
        if self._keeps(key):
            self._last[key] = found
        return found

    def forget(self, key: Key) -> None:
        """Drops what was read of an object that is gone."""
        self._last.pop(key, None)
