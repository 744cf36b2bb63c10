"""Where a machine's log lies is the provider's word: it leads nobody into our own network."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from tests.contract.test_vast_client import CLOCK, NONCE, client, good, key_line, peer
from tests.integration.parts import KEY, Simulator

from gpujob.adapters.door import Door
from gpujob.adapters.errors import ProviderError, ProviderUnavailable
from gpujob.adapters.log_store import LogStore, is_far
from gpujob.adapters.vast import LOG_PATIENCE_SECONDS, VastClient
from gpujob.core.machine.start_script import host_key_in_log

NEAR = [
    *("127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001"),
    *("0x7f.0.0.1", "0177.0.0.1", "0", "0.0.0.0", "127.255.255.254", "localhost", "LOCALHOST."),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[::1%25lo]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "127\u30020\u30020\u30021"),
    *("\uff11\uff12\uff17.\uff10.\uff10.\uff11", "\u2460\u2461\u2466.0.0.1", "[fe80::1%25lo]"),
    *("%31%32%37.0.0.1", "s3.amazonaws.com@127.0.0.1", "a:b@127.0.0.1", "[::1].", "127.0.0.1\t"),
    *(" 127.0.0.1", "127.0.0.1%00.example", "rebinding.example"),
]  # fmt: skip
"""Spellings of this machine's own address."""
OTHERS = [
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
    *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "::"),
    *("2002:a00:1::1", "2001:db8::1", "::10.0.0.1", "", "x", "127.1", "8.8.8.8.", "08.8.8.8"),
]  # fmt: skip
FAR = ["8.8.8.8", "52.217.0.1", "2600:1f18::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@asynccontextmanager
async def own_service() -> AsyncIterator[tuple[int, list[str]]]:
    """Something that listens on this machine; yields its port, and who came."""
    came: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(str(writer.get_extra_info("peername")))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        writer.close()

    server = await asyncio.start_server(serve, ["127.0.0.1", "::1"], 0)
    ports = {one.getsockname()[:2] for one in server.sockets}
    port = next(port for host, port in ports if host == "127.0.0.1")
    async with server:
        yield port, came


@pytest.fixture
def lying_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means this machine, besides another address."""
    true = socket.getaddrinfo

    def resolve(host: Any, port: Any, *given: Any, **named: Any) -> Any:
        if host not in ("rebinding.example", b"rebinding.example"):
            return true(host, port, *given, **named)
        both = ("192.0.2.1", "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in both]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("host", NEAR)
@pytest.mark.usefixtures("lying_names")
async def test_no_spelling_leads_to_this_machine(host: str) -> None:
    """Whatever the address looks like, nobody here is connected to."""
    store = LogStore("http://console.example")
    async with own_service() as (port, came):
        with pytest.raises(ProviderError):
            await store.read(store.place(f"http://{host}:{port}/log"))
        with pytest.raises(ProviderError):
            await store.read(store.place(f"http://{host}/log"))

    assert not came


async def test_a_provider_that_is_near_has_its_logs_there(simulator: Simulator) -> None:
    """As a simulator has; and a proxy of our own that imitates the provider."""
    near, named = LogStore(simulator.url), LogStore("http://localhost")
    async with own_service() as (port, came):
        assert await near.read(near.place(f"http://127.0.0.1:{port}/log")) == b"secret"
        assert await named.read(named.place(f"http://localhost:{port}/log")) == b"secret"

    assert len(came) == 2


@pytest.mark.parametrize("address", OTHERS)
def test_addresses_of_networks_that_are_not_the_internet(address: str) -> None:
    """Also in the forms in which one address stands in another, and what is no address."""
    assert not is_far(address)


@pytest.mark.parametrize("address", FAR)
def test_addresses_of_the_internet(address: str) -> None:
    """Also as a machine without IPv4 sees them."""
    assert is_far(address)


@pytest.mark.parametrize(
    ("provider", "given", "works"),
    [
        ("https://console.example", "https://s3.example/log?X-Amz-Signature=a%2Fb", True),
        ("https://console.example", "HTTPS://s3.example/log", True),
        ("https://console.example", "http://s3.example/log", False),
        ("http://console.example", "http://s3.example/log", True),
        ("http://console.example", "https://s3.example/log", True),
        *(
            ("http://console.example", given, False)
            for given in (
                *("ftp://s3.example/", "file:///etc/passwd", "//s3.example/log", "s3.example", ""),
                *(
                    "http:///log",
                    "http:/s3.example",
                    "http://u@s3.example",
                    "http://u:p@s3.example",
                ),
                *("http://s3.example:99999/", "http://[::1/", "http://x\\@s3.example/", "http:", 7),
                *("javascript:alert(1)", None, ["http://s3.example"], "data:text/plain,x"),
            )
        ),
    ],
)
def test_what_an_address_of_a_log_must_be(provider: str, given: object, works: bool) -> None:
    """HTTPS where the provider is, and nothing but an address."""
    store = LogStore(provider)
    if works:
        assert store.place(given).host == "s3.example"
        return
    with pytest.raises(ProviderUnavailable):
        store.place(given)


async def test_no_redirect_is_followed() -> None:
    """It would lead where the first address could not."""
    async with own_service() as (port, came):
        inside = {"Location": f"http://127.0.0.1:{port}/"}
        places: list[str] = []

        def answer(method: str, _: str) -> tuple[int, dict[str, str], bytes]:
            return (
                good({"result_url": f"{places[0]}/log"}) if method == "PUT" else (302, inside, b"")
            )

        async with peer(answer) as (url, _), client(url) as vast:
            places.append(url)
            with pytest.raises(ProviderUnavailable, match="status 302"):
                await vast.read_log(1)

    assert not came


class SetClock:
    """Clocks that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.now = CLOCK.now

    def monotonic(self) -> float:
        return self.seconds


@pytest.mark.parametrize("late", [5.0, 20.0, 40.0])
async def test_a_log_that_comes_late_is_requested_once(late: float) -> None:
    """It is looked for at the same place, pass after pass, and each pass is short."""
    clock, places = SetClock(), list[str]()

    def answer(method: str, _: str) -> tuple[int, dict[str, str], bytes]:
        if method == "PUT":
            return good({"result_url": f"{places[0]}/log"})
        return (200, {}, key_line("A" * 68)) if clock.seconds >= late else (404, {}, b"")

    async with peer(answer) as (url, came):
        vast = VastClient(url, SecretStr(KEY), clock, Door(clock, spacing=0))
        places.append(url)
        while (log := await vast.read_log(1)) is None:
            clock.seconds += 2.5
        await vast.close()

    assert host_key_in_log(log, NONCE)
    assert clock.seconds < late + 2.5
    assert len([one for one in came if one.startswith("PUT")]) == 1


async def test_a_log_that_never_comes_is_requested_again() -> None:
    """After the time in which it may come; the last place is looked at once more before that."""
    clock, places = SetClock(), list[str]()

    def answer(method: str, _: str) -> tuple[int, dict[str, str], bytes]:
        return good({"result_url": f"{places[0]}/log"}) if method == "PUT" else (403, {}, b"")

    async with peer(answer) as (url, came):
        vast = VastClient(url, SecretStr(KEY), clock, Door(clock, spacing=0))
        places.append(url)
        while clock.seconds < 2 * LOG_PATIENCE_SECONDS:
            assert await vast.read_log(1) is None
            clock.seconds += 5
        await vast.close()

    requests = [number for number, one in enumerate(came) if one.startswith("PUT")]
    assert len(requests) == 2
    assert came[requests[1] - 1].startswith("GET")
