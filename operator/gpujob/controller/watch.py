"""The only module that knows kopf: it watches, and hands each event over.

kopf runs in a thread and a loop of its own, because it cancels what it finds in a shared one. Its
low-level handlers cost no write and leave nothing on the objects. If its watch ends, so must the
process: a deaf controller is worse than a restarted one.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import kopf

from gpujob.api.meta import GROUP, LABEL_COMPONENT, LABEL_MANAGED_BY, MANAGER, VERSION

OnEvent = Callable[[str, dict[str, Any], bool], None]
"""Kind, object, whether it is gone; called in the watcher's thread."""


class Watcher:
    """Watches GpuJobs, GpuNodes and driver pods of the whole cluster."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.problem: str | None = None
        """Why the watch ended, if it did by itself."""

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the watch goes on."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ends the watch and waits for it, 10 s at most."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout=10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(
                kopf.operator(
                    registry=self._registry(),
                    settings=_settings(),
                    clusterwide=True,
                    standalone=True,
                    stop_flag=self._stop,
                )
            )
            if not self._stop.is_set():
                self.problem = "the watch ended"
        except Exception as error:  # noqa: BLE001 - the thread's last word
            self.problem = f"the watch broke: {type(error).__name__}: {error}"
        finally:
            self._loop.close()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def login(**kwargs: Any) -> Any:
            return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

        def forward(kind: str) -> Any:
            async def handler(event: Any, body: Any, **_: Any) -> None:
                self._on_event(kind, dict(body), event["type"] == "DELETED")

            return handler

        for kind, plural in (("GpuJob", "gpujobs"), ("GpuNode", "gpunodes")):
            kopf.on.event(GROUP, VERSION, plural, registry=registry, id=kind)(forward(kind))
        kopf.on.event("", "v1", "pods", registry=registry, id="Pod")(forward("Pod"))
        return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # Never ours: kopf takes what bears this name off any object that no handler of its own holds.
    settings.persistence.finalizer = f"{GROUP}/never-set"
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.watching.reconnect_backoff = 1.0
    settings.watching.label_selectors["", "v1", "pods"] = (
        f"{LABEL_MANAGED_BY}={MANAGER},{LABEL_COMPONENT}=driver"
    )
    return settings
