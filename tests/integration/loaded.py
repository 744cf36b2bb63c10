"""A process that has loaded one of our programs, and forks each run of it.

The controller's imports alone take 0.9 s of processor time, and the integration tests start it a
hundred times. A run that is forked is the program's process like any other from its first line on:
its arguments, its environment, its folder and its log are its own. That a program starts from
nothing, too, is for the end-to-end tests.

It is run by the path of this file, with the modules to load as arguments. It reads requests as
lines of JSON, and ends with its input.
"""

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import threading
from typing import Any, ClassVar, NoReturn

LOADED = {
    ("gpujob",): ("gpujob.controller.main",),
    ("gpujob", "server"): ("gpujob.server.main",),
    ("gpujob", "driver"): ("gpujob.driver.main",),
    ("vastsim",): (
        *("vastsim.living", "vastsim.machines", "vastsim.record", "vastsim.server"),
        # uvicorn and FastAPI load these only when they begin.
        *("uvicorn.lifespan.on", "uvicorn.protocols.http.h11_impl", "pydantic.v1"),
    ),
}
"""What each of our programs loads, by what follows `python -m`."""


class Loader:
    """Starts runs of one program, for any number of threads."""

    every: ClassVar[dict[tuple[str, ...], "Loader"]] = {}
    """Those of this worker, which end with it."""
    first: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    @classmethod
    def of(cls, command: list[str]) -> "Loader":
        """Returns the loader of the program of a command; it is started with the first run."""
        program = tuple(command[:2]) if tuple(command[:2]) in LOADED else tuple(command[:1])
        with cls.first:
            if program not in cls.every:
                cls.every[program] = cls(LOADED[program])
            return cls.every[program]

    def close(self) -> None:
        """Ends the process; runs that go on, go on."""
        assert self._process.stdin is not None, "asked for as a pipe"
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def ask(self, **request: object) -> dict[str, Any]:
        """Sends a request and returns the answer."""
        pipe = self._process
        assert pipe.stdin is not None, "asked for as a pipe"
        assert pipe.stdout is not None, "asked for as a pipe"
        with self._lock:
            pipe.stdin.write(json.dumps(request).encode() + b"\n")
            pipe.stdin.flush()
            found: dict[str, Any] = json.loads(pipe.stdout.readline())
            return found


READ_AT_IMPORT = ("kubernetes.config.kube_config", "kubernetes.aio.config.kube_config")
"""These keep what `KUBECONFIG` was when they were loaded."""


def main() -> None:
    """Serves requests: `start` one run, or tell the `status` of one."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    # Else each run looks through all of this for garbage, at its end at the latest.
    gc.freeze()
    codes: dict[int, int] = {}
    # Not through `sys.stdin`, which would read ahead what is no run's to have.
    with os.fdopen(os.dup(0), "rb", buffering=0) as requests:
        for line in iter(requests.readline, b""):
            request = json.loads(line)
            if "start" in request:
                pid = os.fork()
                if pid == 0:
                    requests.close()
                    run(**request["start"])
                # An earlier run may have had the same number: they are given anew after a while.
                codes.pop(pid, None)
                answer: dict[str, int | None] = {"pid": pid}
            else:
                answer = {"code": _code(request["status"], codes)}
            os.write(1, json.dumps(answer).encode() + b"\n")


def _code(pid: int, codes: dict[int, int]) -> int | None:
    """Returns the exit status of a run, however often it is asked for; None while it runs."""
    if pid not in codes:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            codes[pid] = os.waitstatus_to_exitcode(status)
    return codes.get(pid)


def run(
    module: str, arguments: list[str], env: dict[str, str], out: str, err: str, folder: str
) -> NoReturn:
    """Becomes one run of a program, as `python -m MODULE ARGUMENTS`."""
    added = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for ours, (path, how) in enumerate(((os.devnull, os.O_RDONLY), (out, added), (err, added))):
        theirs = os.open(path, how, 0o666)
        os.dup2(theirs, ours)
        os.close(theirs)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for name in READ_AT_IMPORT:
        if name in sys.modules:
            importlib.reload(sys.modules[name])
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
