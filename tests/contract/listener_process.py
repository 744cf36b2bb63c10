"""A listener of ours as a process of its own, for whoever wants to know what a body costs it.

Run as `python listener_process.py NAME PORT [TOKEN]`. It serves over plain HTTP and asks no
cluster, so only requests that end before that can be answered.
"""

import asyncio
import sys
from typing import Any

from pydantic import SecretStr
from starlette.types import ASGIApp

from gpujob.adapters.clock import SystemClock
from gpujob.controller.driver_tokens import DriverPod
from gpujob.controller.holds import Holds
from gpujob.controller.transport import transport_app
from gpujob.core.limits import Limits
from gpujob.server.admission import admission_app
from gpujob.server.http_api.app import api_app
from gpujob.server.http_api.callers import Callers
from gpujob.server.http_api.idempotency import MarkKeys
from gpujob.web.listener import http_server

NOBODY: Any = None


class AnyPod:
    """Takes every token for that of some pod of some tenant."""

    async def pod_of(self, _: SecretStr) -> DriverPod:
        """Returns the pod."""
        return DriverPod("team", "pod", "uid")


def application(name: str, token: str) -> ASGIApp:
    """Returns the listener of this name."""
    clock, any_pod = SystemClock(), AnyPod()
    tokens: Any = any_pod
    match name:
        case "admission":
            return admission_app(clock, own_namespace="gpujob-system")
        case "api":
            return api_app(
                kube=NOBODY,
                clock=clock,
                callers=Callers(NOBODY, clock, SecretStr(token)),
                notes=lambda: None,
                controller=NOBODY,
                mark_keys=MarkKeys(SystemClock()),
            )
        case "transport":
            return transport_app(
                reviews=NOBODY,
                tokens=tokens,
                holds=Holds(),
                clock=clock,
                limits=Limits(),
                lookup=lambda _: (None, None),
                is_pod_of=lambda *_: False,
                heard={},
                on_news=lambda _: None,
                world=NOBODY,
                quotes=NOBODY,
                logins={},
                authorities=lambda: "",
            )
    raise SystemExit(f"there is no listener {name}")


if __name__ == "__main__":
    name, port, token = (*sys.argv[1:], "")[:3]
    asyncio.run(http_server(application(name, token), "127.0.0.1", int(port)).serve())
