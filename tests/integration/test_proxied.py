"""The controller in a cluster that lets nothing out except through a proxy."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.authority import certificate, listening
from tests.contract import proxy_process
from tests.integration.conftest import World
from tests.integration.parts import KEY, eventually

PASSWORD = "canary-of-the-proxy"


@contextmanager
def over_tls(port: int, folder: Path) -> Iterator[int]:
    """Another port that leads to this one over TLS, with the authority in a file of the folder."""
    made = certificate("console.example")
    (folder / "ca.crt").write_text(made.authority)
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(proxy_process.pump(reader, far[1]), proxy_process.pump(far[0], writer))

    async def stop() -> None:
        server.close()
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    starting = asyncio.start_server(serve, "127.0.0.1", 0, ssl=listening(made))
    server = asyncio.run_coroutine_threadsafe(starting, loop).result(30)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def proxy(folder: Path) -> Iterator[tuple[int, Path]]:
    """A proxy; yields its port, and the file in which it says what it is asked."""
    said = folder / "proxy.log"
    command = [sys.executable, proxy_process.__file__, f"robot:{PASSWORD}"]
    with said.open("w") as file, subprocess.Popen(command, stdout=file) as process:
        try:
            line = eventually("the proxy listens", lambda: said.read_text().partition("\n")[0])
            yield json.loads(line)["port"], said
        finally:
            process.kill()


def test_the_provider_is_asked_through_the_proxy_and_the_api_server_is_not(
    stage: World, tmp_path: Path
) -> None:
    """Nobody here can resolve the provider's name: there is no other way."""
    simulator = int(stage.simulator.url.rpartition(":")[2])
    with over_tls(simulator, tmp_path) as port, proxy(tmp_path) as (by, said):
        stage.operator.start(
            GPUJOB_PROVIDER_URL=f"https://console.example:{port}",
            GPUJOB_PROVIDER_PROXY_URL=f"http://127.0.0.1:{by}",
            GPUJOB_PROVIDER_PROXY_USERNAME="robot",
            GPUJOB_PROVIDER_PROXY_PASSWORD=PASSWORD,
            GPUJOB_PROVIDER_AUTHORITIES_FILE=str(tmp_path / "ca.crt"),
            GPUJOB_LOG_LEVEL="DEBUG",
        )
        eventually("the operator leads", lambda: stage.operator.probe("readyz") == (200, "ok"))
        assert stage.operator.stop() == 0
        _, *asked = (json.loads(line) for line in said.read_text().splitlines())

    assert {one["asked"] for one in asked} == {f"CONNECT console.example:{port} HTTP/1.1"}
    assert KEY not in said.read_text()
    assert PASSWORD not in stage.operator.log
