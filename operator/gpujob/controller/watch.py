"""The only module that uses kopf: it watches objects, and passes each event on.

kopf runs in a thread and an event loop of its own: when it stops, it also cancels tasks of its loop
that it did not start. Its low-level `on.event` handlers write nothing to the objects. If the watch
ends, the process must end too, because a restart is better than a controller that sees no events.

kopf looks once, when it starts, which kinds there are, and never watches one that comes later. So
it is started only once the API server serves all of them, and ends if it has not found them.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import kopf
from kopf._cogs.structs.references import Insights

from gpujob.adapters.kube import PAGE_OBJECTS
from gpujob.api.meta import GROUP, VERSION
from gpujob.controller.cache import WATCHED

OnEvent = Callable[[str, dict[str, Any], bool], None]
"""Gets the kind, the object, and whether it is gone; called in the watcher's thread."""
PLURALS = {"GpuJob": "gpujobs", "GpuNode": "gpunodes"}
IDLE_SECONDS = 0.1
"""kopf keeps a task for each object until it has heard nothing of it for so long."""


class Watcher:
    """Watches GpuJobs, GpuNodes and driver pods, of the whole cluster or of some namespaces."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._fields: Mapping[str, str] = {}
        self._namespaces: Sequence[str] = ()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.is_open = False
        """Whether every kind is watched."""
        self.problem: str | None = None
        """Why the watch ended, unless it was stopped."""

    def start(self, fields: Mapping[str, str], namespaces: Sequence[str]) -> None:
        """Starts to watch; of each kind what the selector of fields matches, if there is one.

        Without namespaces it watches all.
        """
        self._fields, self._namespaces = fields, namespaces
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """True if the watch ran once and does so no more."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def stop(self) -> None:
        """Stops the watch, and waits up to 10 s until it has ended."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout=10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._watch())
            if not self._stop.is_set():
                self.problem = "the watch of the API server ended"
        except Exception as error:  # noqa: BLE001 - the thread ends here, and `problem` says why
            self.problem = f"the watch of the API server failed: {type(error).__name__}: {error}"
        finally:
            self.is_open = False
            self._loop.close()

    async def _watch(self) -> None:
        insights = Insights()
        looking = asyncio.create_task(self._look(insights))
        watching = asyncio.create_task(
            kopf.operator(
                registry=self._registry(),
                settings=kopf_settings(self._fields),
                insights=insights,
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                standalone=True,
                stop_flag=self._stop,
            )
        )
        await asyncio.wait([looking, watching], return_when=asyncio.FIRST_COMPLETED)
        problem = looking.exception() if looking.done() else None
        if problem is not None:
            self._stop.set()
        looking.cancel()
        await watching
        if problem is not None:
            raise problem

    async def _look(self, insights: Insights) -> None:
        """Notes that all kinds are watched; raises RuntimeError if one is not."""
        await insights.ready_resources.wait()
        await insights.ready_namespaces.wait()
        watched = {one.plural for one in insights.watched_resources}
        if missing := {*PLURALS.values(), "pods"} - watched:
            raise RuntimeError(f"{', '.join(sorted(missing))} cannot be watched")
        self.is_open = True

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def login(**kwargs: Any) -> Any:
            return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

        def forward(kind: str) -> Any:
            async def handler(event: Any, body: Any, **_: Any) -> None:
                self._on_event(kind, dict(body), event["type"] == "DELETED")

            return handler

        for kind, plural in PLURALS.items():
            kopf.on.event(GROUP, VERSION, plural, registry=registry, id=kind)(forward(kind))
        kopf.on.event("", "v1", "pods", registry=registry, id="Pod")(forward("Pod"))
        return registry


class _NothingToCompare(kopf.DiffBaseStorage):
    """Keeps no former state of an object. Only handlers of changes look at that, and kopf would
    copy each object whole at each event for it: more than half of what an event costs.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


def kopf_settings(fields: Mapping[str, str]) -> kopf.OperatorSettings:
    """Returns how kopf is to watch: it writes to no object, and copies none."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # This must not be our finalizer: kopf removes the finalizer of this name from every object that
    # none of its handlers needs, see https://github.com/nolar/kopf/issues/664.
    settings.persistence.finalizer = f"{GROUP}/never-set"
    settings.persistence.diffbase_storage = _NothingToCompare()
    settings.persistence.progress_storage = kopf.StatusProgressStorage()
    # By default 5 s, in which a list of ten thousand objects makes as many tasks.
    settings.queueing.idle_timeout = IDLE_SECONDS
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.watching.reconnect_backoff = 1.0
    settings.watching.chunk_size = PAGE_OBJECTS
    settings.watching.label_selectors["", "v1", "pods"] = WATCHED["Pod"]
    for kind, selector in fields.items():
        settings.watching.field_selectors[GROUP, VERSION, PLURALS[kind]] = selector
    return settings
