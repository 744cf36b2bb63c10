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
