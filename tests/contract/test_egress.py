"""The way to the provider through a proxy: a real one, in a process of its own."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests.authority import certificate, listening
from tests.contract import proxy_process
from tests.contract.test_vast_client import CLOCK, SPEC, Answer, good, peer, request
from tests.contract.test_vast_secrets import told
from yarl import URL

from gpujob.adapters.door import Door
from gpujob.adapters.egress import Egress, egress
from gpujob.adapters.errors import ProviderUnavailable, RentWithheld
from gpujob.adapters.log_store import LogStore
from gpujob.adapters.vast import VastClient
from gpujob.controller.provider import provider_client
from gpujob.controller.settings import Settings
from gpujob.core.market.search import search_of

KEY = "canary-of-the-account"
PASSWORD = "canary-of-the-proxy"
LOGIN = f"robot:{PASSWORD}"
CERTIFICATE = certificate("console.example", "s3.example", "127.0.0.1")


@dataclass
class Proxy:
    """The process, and what it was asked."""

    process: asyncio.subprocess.Process
    port: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def listen(self) -> None:
        """Takes note of what it prints, until it ends."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.asked.append(json.loads(line))

    async def end(self) -> None:
        """Ends it, if it has not ended."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def tunnels(self) -> set[str]:
        """Returns what was asked of it, without the headers."""
        return {one["asked"] for one in self.asked}


@asynccontextmanager
async def proxy(login: str, *certificate: str) -> AsyncIterator[Proxy]:
    """A proxy that is ended afterwards."""
    command = (sys.executable, proxy_process.__file__, login, *certificate)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    made = Proxy(process)
    assert process.stdout is not None
    made.port = json.loads(await process.stdout.readline())["port"]
    noting = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        await made.end()
        await noting


@pytest.fixture
def way(tmp_path: Path) -> Callable[..., Egress]:
    """Makes the way by a proxy, as the settings would."""
    (tmp_path / "ca.crt").write_text(CERTIFICATE.authority)

    def made(
        by: Proxy, password: str = PASSWORD, *, scheme: str = "http", trusting: bool = True
    ) -> Egress:
        file = str(tmp_path / "ca.crt") if trusting else ""
        return egress(f"{scheme}://127.0.0.1:{by.port}", "robot", SecretStr(password), file)

    return made


@asynccontextmanager
async def client(port: str, way: Egress) -> AsyncIterator[VastClient]:
    """A client of a provider whose name nobody here can resolve."""
    url = f"https://console.example:{port}"
    made = VastClient(url, SecretStr(KEY), CLOCK, Door(CLOCK, spacing=0), way)
    try:
        yield made
    finally:
        await made.close()


def provider(port: list[str]) -> Answer:
    """Answers all that the operator asks; its logs lie in another place of the same process."""

    def answer(method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        if path.startswith("/log"):
            return 200, {}, b"what the machine said"
        return good(
            {
                "id": 1,
                "offers": [],
                "instances": [],
                "total_instances": 0,
                "result_url": f"https://s3.example:{port[0]}/log",
                "success": True,
                "new_contract": 7,
            }
        )

    return answer


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_all_that_goes_to_the_provider_goes_through_the_proxy(
    way: Callable[..., Egress], scheme: str, tmp_path: Path
) -> None:
    """It sees whom it is to reach, and its own login; not the account's key, and nobody else."""
    port: list[str] = []
    tls = listening(CERTIFICATE)
    file = tmp_path / "proxy.pem"
    file.write_text(CERTIFICATE.chain + CERTIFICATE.key.get_secret_value())
    shown = [str(file)] if scheme == "https" else []
    async with proxy(LOGIN, *shown) as by, peer(provider(port), tls) as (url, came):
        port.append(url.rpartition(":")[2])
        async with client(port[0], way(by, scheme=scheme)) as vast:
            await vast.search(search_of(SPEC))
            await vast.list_leases()
            assert await vast.read_log(7) == "what the machine said"
            async with vast.rent_line() as line:
                assert await line.send(request(7), 5) == 7

    console, store = f"console.example:{port[0]}", f"s3.example:{port[0]}"
    assert by.tunnels() == {f"CONNECT {console} HTTP/1.1", f"CONNECT {store} HTTP/1.1"}
    assert [one for one in came if one.startswith("PUT /api/v0/asks")] == ["PUT /api/v0/asks/7/"]
    assert KEY not in json.dumps(by.asked)
    assert "Bearer" not in json.dumps(by.asked)


async def test_the_controllers_clients_go_as_its_settings_say(tmp_path: Path) -> None:
    """Nobody here can resolve the provider's name: there is no other way."""
    (tmp_path / "ca.crt").write_text(CERTIFICATE.authority)
    async with proxy(LOGIN) as by, peer(provider([""]), listening(CERTIFICATE)) as (url, _):
        port = url.rpartition(":")[2]
        settings = Settings(
            vast_api_key=SecretStr(KEY),
            driver_image="x",
            transport_url="https://x",
            namespace="x",
            pod_name="x",
            pod_ips="127.0.0.1",
            provider_url=f"https://console.example:{port}",
            provider_proxy_url=f"http://127.0.0.1:{by.port}",
            provider_proxy_username="robot",
            provider_proxy_password=SecretStr(PASSWORD),
            provider_authorities_file=str(tmp_path / "ca.crt"),
        )
        vast = provider_client(settings, CLOCK, Door(CLOCK, spacing=0))
        listing = await vast.list_leases()
        await vast.close()

    assert listing.leases == ()
    assert by.tunnels() == {f"CONNECT console.example:{port} HTTP/1.1"}


async def test_a_proxy_that_refuses_is_told_without_its_password(
    way: Callable[..., Egress],
) -> None:
    """Neither the password nor the key is in anything that could be logged; nothing is rented."""
    port: list[str] = []
    async with proxy(LOGIN) as by, peer(provider(port), listening(CERTIFICATE)) as (url, came):
        port.append(url.rpartition(":")[2])
        async with client(port[0], way(by, "wrong-" + PASSWORD)) as vast:
            with pytest.raises(ProviderUnavailable) as refused:
                await vast.list_leases()
            with pytest.raises(ProviderUnavailable):
                async with vast.rent_line():
                    pass
            shown = told(refused.value) + repr(vast)

    assert came == []
    assert PASSWORD not in shown
    assert KEY not in shown


async def test_without_the_proxy_nobody_is_reached(way: Callable[..., Egress]) -> None:
    """There is no other way; and a rent whose proxy is gone was not sent."""
    port: list[str] = []
    async with peer(provider(port), listening(CERTIFICATE)) as (url, came):
        port.append(url.rpartition(":")[2])
        async with proxy(LOGIN) as by, client(port[0], way(by)) as vast, vast.rent_line() as line:
            # The connection that was opened beforehand ends with the proxy.
            await by.end()
            with pytest.raises(ProviderUnavailable):
                await vast.list_leases()
            with pytest.raises(RentWithheld):
                await line.send(request(7), 5)

    assert [one for one in came if one.startswith("PUT")] == []


async def test_only_the_authorities_of_the_file_make_the_difference(
    way: Callable[..., Egress],
) -> None:
    """The certificate of the provider is checked behind a proxy, too."""
    port: list[str] = []
    async with proxy(LOGIN) as by, peer(provider(port), listening(CERTIFICATE)) as (url, came):
        port.append(url.rpartition(":")[2])
        async with client(port[0], way(by, trusting=False)) as vast:
            with pytest.raises(ProviderUnavailable):
                await vast.list_leases()

    assert came == []


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.1", "[::1]", "169.254.169.254", "metadata", "gpujob.system.svc"),
        *("127.1", "metadata.google.internal", "LOCALHOST.", "0x7f.0.0.1", "2130706433"),
        *("[fd00::1]", "8.8.8.8.nip.0"),
    ],
)
async def test_the_provider_sends_nobody_through_the_proxy_into_our_networks(
    way: Callable[..., Egress], host: str
) -> None:
    """What can be seen from the address; where other names lead, the proxy decides."""
    async with proxy(LOGIN) as by:
        store = LogStore("https://console.example", way(by))
        with pytest.raises(ProviderUnavailable, match="a network of ours"):
            await store.read(URL(f"https://{host}/log"))

    assert by.asked == []
