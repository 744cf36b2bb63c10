"""No memory of ours is dumped, no other process of the same user reads it, and nothing shows it."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from tests.integration.parts import environment

from gpujob.adapters.clock import SystemClock
from gpujob.controller.holds import Holds
from gpujob.controller.probes import probes_app
from gpujob.controller.transport import transport_app
from gpujob.core.limits import Limits
from gpujob.server.admission import admission_app
from gpujob.server.main import probes

PROGRAM = """
import ctypes, resource, sys
from gpujob import __main__

try:
    __main__.main()
except SystemExit as end:
    print("ended:", end)
print("core:", resource.getrlimit(resource.RLIMIT_CORE))
print("dumpable:", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
print("readable:", "Pid:" in open("/proc/self/status").read())
"""

ANYTHING: Any = SimpleNamespace()


@pytest.mark.parametrize("program", ["controller", "server", "driver"])
def test_each_program_keeps_its_memory(program: str) -> None:
    """From its start on: here it ends at once, for want of settings."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, program], capture_output=True, text=True, env=environment()
    )

    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert "must be set" in told.pop("ended"), done.stderr
    assert told == {"core": "(0, 0)", "dumpable": "0", "readable": "True"}


CROWDED = """
import asyncio, gc, os, resource, ssl, sys, tracemalloc
from gpujob.controller.main import make_room_for_drivers

make_room_for_drivers()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
print("files:", soft == hard)

async def connections():
    # Not opened: what each keeps is there from its beginning.
    loop, context = asyncio.get_running_loop(), ssl.create_default_context()
    return [
        asyncio.sslproto.SSLProtocol(loop, None, context, loop.create_future(), server_hostname="x")
        for _ in range(100)
    ]

tracemalloc.start()
kept = asyncio.run(connections())
print("kib each:", tracemalloc.get_traced_memory()[0] // len(kept) // 1024)
"""


def test_the_controller_has_room_for_many_drivers() -> None:
    """Thousands are connected at once; an idle connection once took 256 KiB of buffer."""
    lowered = 'ulimit -S -n 64; exec "$0" -c "$1"'
    done = subprocess.run(
        ["sh", "-c", lowered, sys.executable, CROWDED],
        capture_output=True,
        text=True,
        env=environment(),
    )

    assert done.stdout.startswith("files: True\nkib each: "), done.stderr
    assert int(done.stdout.split()[-1]) < 40


@pytest.mark.parametrize(
    "app",
    [
        admission_app(SystemClock(), own_namespace="x"),
        probes(ANYTHING),
        probes_app(
            ANYTHING,
            SystemClock(),
            is_alive=lambda: True,
            leads=lambda: True,
            problem=lambda: None,
            figures=lambda: ANYTHING,
        ),
        transport_app(
            reviews=ANYTHING,
            tokens=ANYTHING,
            holds=Holds(),
            clock=SystemClock(),
            limits=Limits(),
            lookup=lambda _: (None, None),
            is_pod_of=lambda *_: False,
            heard={},
            on_news=lambda _: None,
            world=ANYTHING,
            quotes=ANYTHING,
            logins={},
            authorities=lambda: "",
        ),
    ],
    ids=["admission", "server's probes", "controller's probes", "transport"],
)
def test_no_listener_has_anything_for_debugging(app: Starlette) -> None:
    """Tracebacks go to the log alone, and no library adds a route that describes the others."""
    assert not app.debug
    assert type(app) is Starlette
