"""Every listener in a process whose adapters fail in a way that nobody thought of.

`python broken.py TOLD`, where TOLD is JSON: `token`, which the API knows, and `ports`, by each name
of `NAMES`. Those named `… cut off` have adapters as they should be, and the cluster of KUBECONFIG.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from gpujob.adapters.clock import SystemClock
from gpujob.adapters.controller import ControllerClient
from gpujob.adapters.kube import KubeClient
from gpujob.adapters.log import configure_logging
from gpujob.api.meta import TRANSPORT_AUDIENCE
from gpujob.controller.driver_tokens import DriverTokens
from gpujob.controller.holds import Holds
from gpujob.controller.probes import probes_app
from gpujob.controller.transport import transport_app
from gpujob.core.limits import Limits
from gpujob.server.admission import admission_app
from gpujob.server.http_api.app import api_app
from gpujob.server.http_api.callers import Callers
from gpujob.server.http_api.idempotency import MarkKeys
from gpujob.server.main import probes
from gpujob.web import bodies, listener
from gpujob.web.token_reviews import TokenReviews

NAMES = (
    *("api", "transport", "probes", "server's probes", "admission"),
    *("api cut off", "transport cut off", "probes cut off"),
)
SECRET = "canary-0f9e8d7c6b5a49382716f5e4d3c2b1a0"
CAUSE = "the forced fault"
HEAD_SECONDS = 4.0
BODY_SECONDS = 5.0
"""Instead of half a minute; longer than a head may take, which then has long come."""


class Fault(Exception):
    """It says of itself what no answer may show."""

    def __init__(self) -> None:
        super().__init__(f"{CAUSE}: {__file__} at 10.1.2.3:443, asyncio, {SECRET}")


class Broken:
    """Stands for anything, and fails whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Fault

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise Fault


def applications(token: str, cut_off: KubeClient) -> dict[str, Any]:
    """Returns what listens, by name; the API knows one token."""
    broken: Any = Broken()
    clock = SystemClock()

    def api(kube: Any, controller: Any) -> Any:
        callers = Callers(kube, clock, SecretStr(token))
        return api_app(
            kube=kube,
            clock=clock,
            callers=callers,
            notes=lambda: None,
            controller=controller,
            mark_keys=MarkKeys(clock),
        )

    def transport(kube: Any) -> Any:
        reviews = TokenReviews(kube, clock, believed_seconds=60, audience=TRANSPORT_AUDIENCE)
        return transport_app(
            reviews=reviews,
            tokens=DriverTokens(reviews, clock, broken),
            holds=Holds(),
            clock=clock,
            limits=Limits(),
            lookup=broken,
            is_pod_of=broken,
            heard={},
            on_news=broken,
            world=broken,
            quotes=broken,
            logins={},
            authorities=broken,
        )

    def probing(kube: Any) -> Any:
        parts = dict.fromkeys(("is_alive", "leads", "problem", "figures"), broken)
        return probes_app(kube, clock, **parts)

    nobody = ControllerClient(
        "https://127.0.0.1:9", token_file=Path(__file__), authorities_file=Path(__file__)
    )
    return {
        "api": api(broken, broken),
        "transport": transport(broken),
        "probes": probing(broken),
        "server's probes": probes(broken),
        "admission": admission_app(broken, broken, own_namespace="x"),
        "api cut off": api(cut_off, nobody),
        "transport cut off": transport(cut_off),
        "probes cut off": probing(cut_off),
    }


async def serve(ports: dict[str, int], token: str) -> None:
    """Serves until it is ended."""
    listener.HEAD_SECONDS, bodies.BODY_SECONDS = HEAD_SECONDS, BODY_SECONDS
    apps = applications(token, await KubeClient.connect("gpujob-server"))
    servers = [listener.http_server(apps[name], "127.0.0.1", ports[name]) for name in NAMES]
    await asyncio.gather(*(server.serve() for server in servers))


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    configure_logging("DEBUG", (SecretStr(SECRET), SecretStr(told["token"])))
    asyncio.run(serve(told["ports"], told["token"]))
