"""No client of ours reads a netrc: its logins are a person's, and reading it takes a thread."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.authority import certificate, shown
from tests.contract.test_vast_client import SPEC, client

from gpujob.adapters.controller import ControllerClient
from gpujob.adapters.errors import AdapterError
from gpujob.adapters.log_store import LogStore

CERTIFICATE = certificate("127.0.0.1")
OURS = "ours-and-long-enough"


@asynccontextmanager
async def noting(scheme: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Something that knows nothing; yields its address, and how each request was authorized."""
    shows: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = (line.partition(b": ") for line in head.split(b"\r\n"))
            found = [value for name, _, value in lines if name.lower() == b"authorization"]
            shows.append(b", ".join(found))
            writer.write(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    tls = shown(CERTIFICATE).context if scheme == "https" else None
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", shows


async def read_a_log(url: str, _: Path) -> None:
    store = LogStore(url)
    await store.read(store.place(f"{url}/log"))


async def list_machines(url: str, _: Path) -> None:
    async with client(url, OURS) as vast:
        await vast.list_leases()


async def open_a_rent(url: str, _: Path) -> None:
    async with client(url, OURS) as vast, vast.rent_line():
        pass


async def ask_for_an_estimate(url: str, folder: Path) -> None:
    (folder / "token").write_text(OURS)
    (folder / "authorities").write_text(CERTIFICATE.authority)
    asking = ControllerClient(
        url, token_file=folder / "token", authorities_file=folder / "authorities"
    )
    await asking.estimate("team-a", SPEC)


@pytest.mark.parametrize(
    ("scheme", "ask", "shown_as"),
    [
        ("http", read_a_log, b""),
        ("http", list_machines, f"Bearer {OURS}".encode()),
        ("http", open_a_rent, f"Bearer {OURS}".encode()),
        ("https", ask_for_an_estimate, f"Bearer {OURS}".encode()),
    ],
)
async def test_who_we_are_is_not_what_a_netrc_says(
    scheme: str,
    ask: Callable[[str, Path], Awaitable[None]],
    shown_as: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds a login for every host: a request goes out all the same, and without it."""
    (tmp_path / ".netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    async with noting(scheme) as (url, shows):
        with suppress(AdapterError):
            await ask(url, tmp_path)

    assert shows
    assert set(shows) == {shown_as}
