"""SIGTERM ends each program from its first line on, also as the first process of a container.

For that one the kernel drops a signal that it has no handler for. Each program is held where it
stands when the signal comes: by a module that never finishes its import, or by a server that never
answers.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.authority import driver_variables
from tests.integration.parts import environment, eventually

ALONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
"""Its pids begin at 1, and all of its processes end with the first one."""
ENDED_SECONDS = 60.0
"""Long enough for any machine: without a handler, nothing ever ends it."""
HELD = """
import pathlib, time
pathlib.Path({reached!r}).touch()
while True:
    time.sleep(60)
"""
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


@contextmanager
def first_process(
    program: str, folder: Path, **variables: str
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Runs a program as pid 1 of a namespace; gives its pid here, and what waits for its end."""
    command = [*ALONE, sys.executable, "-m", "gpujob", program]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment(**variables), stdout=log, stderr=log
        ) as outer,
    ):
        try:
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            yield int(eventually("it is forked", children.read_text)), outer
        finally:
            outer.kill()


@pytest.fixture(scope="module", autouse=True)
def _needs_namespaces() -> None:
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0:
        pytest.skip("this kernel lets nobody make a pid namespace")


@pytest.mark.parametrize("module", ["argparse", "asyncio", "pydantic"])
@pytest.mark.parametrize("program", ["controller", "server", "driver"])
def test_while_it_is_being_imported(program: str, module: str, tmp_path: Path) -> None:
    """The first import, one on the way, and one of the last."""
    reached = tmp_path / "reached"
    (tmp_path / f"{module}.py").write_text(HELD.format(reached=str(reached)))
    with first_process(program, tmp_path) as (pid, outer):
        eventually("it imports that", reached.exists)
        os.kill(pid, signal.SIGTERM)
        assert outer.wait(ENDED_SECONDS) == 128 + signal.SIGTERM


@pytest.mark.parametrize("program", ["controller", "server", "driver"])
def test_while_it_waits_for_its_first_answer(program: str, tmp_path: Path) -> None:
    """A server takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        (tmp_path / "kubeconfig").write_text(KUBECONFIG.format(port=port))
        (tmp_path / "token").write_text("t")
        named = {
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "GPUJOB_NAMESPACE": "gpujob-system",
            "GPUJOB_PROBES_PORT": "0",
        }
        if program == "server":
            named |= {"GPUJOB_ADMISSION_PORT": "0"}
        if program == "driver":
            named = driver_variables() | {
                "GPUJOB_TRANSPORT_URL": f"https://127.0.0.1:{port}",
                "GPUJOB_TOKEN_FILE": str(tmp_path / "token"),
                "GPUJOB_STATE_DIR": str(tmp_path),
            }
        if program == "controller":
            named |= {
                "VAST_API_KEY": "0" * 64,
                "GPUJOB_DRIVER_IMAGE": "driver:1",
                "GPUJOB_TRANSPORT_URL": "https://gpujob.gpujob-system.svc:8080",
                "GPUJOB_POD_NAME": "gpujob-0",
                "GPUJOB_POD_IPS": "127.0.0.1",
            }
        with first_process(program, tmp_path, **named) as (pid, outer):
            silent.settimeout(ENDED_SECONDS)
            asked, _ = silent.accept()
            with asked:
                os.kill(pid, signal.SIGTERM)
                assert outer.wait(ENDED_SECONDS) == (143 if program == "driver" else 0)
