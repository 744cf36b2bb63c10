"""A listener that is told whom it may know: any other client gets no answer, and the log says why.

The certificates are such as a cluster's own authority signs, for kubelets, users and servers.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from structlog.testing import capture_logs
from structlog.typing import EventDict
from tests.authority import certificate, client_certificate, cluster_authority, listening
from tests.unit.test_http_guard import Clock

from gpujob.server.admission import PATH, admission_app
from gpujob.web.client_certificates import TOLD_AT_ONCE, TOLD_PER_SECOND, ClientCertificates
from gpujob.web.listener import http_server
from localcluster.control_plane import free_port

SERVER = certificate("127.0.0.1")
KNOWN = "gpujob-webhook-client"
CLUSTER, OTHER = cluster_authority(), cluster_authority()
BETWEEN = cluster_authority(by=CLUSTER)
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
REVIEW = f"{HEAD}Content-Length: 2\r\n\r\n{{}}".encode()
ANSWER = b"HTTP/1.1 400"
"""It was read: this is no review."""
PATIENCE_SECONDS = 30
"""Nothing takes so long; what does has failed."""

Shown = tuple[str, str]


class Door:
    """A listener, and what was logged of it."""

    def __init__(self, port: int, clock: Clock, logged: list[EventDict], folder: Path) -> None:
        self.clock = clock
        self._port, self._logged, self._folder = port, logged, folder

    async def asked(self, *shown: Shown, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
        """Sends a review over a connection of its own; empty = there was no answer."""
        context = ssl.create_default_context(cadata=SERVER.authority)
        context.minimum_version = context.maximum_version = version
        for chain, key in shown:
            file = self._folder / "client.pem"
            file.write_text(key + chain)
            context.load_cert_chain(file)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=context)
                writer.write(REVIEW)
                answer = await reader.read(64)
        except OSError:
            return b""
        writer.transport.abort()
        return answer

    @property
    def problems(self) -> list[str]:
        """What was told of clients that were refused."""
        return [one["problem"] for one in self._logged if one["event"] == "client_refused"]


@asynccontextmanager
async def door(folder: Path, authorities: str) -> AsyncIterator[Door]:
    """Admission's listener, as the server starts it; no authorities = it asks for none."""
    clock, port = Clock(), free_port()
    known = ClientCertificates(clock, authorities=authorities, names=frozenset({KNOWN, "b"}))
    server = http_server(
        admission_app(clock, own_namespace="system"),
        "127.0.0.1",
        port,
        listening(SERVER, ssl.TLSVersion.TLSv1_2),
        known if authorities else None,
    )
    with capture_logs() as logged:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield Door(port, clock, logged, folder)
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, PATIENCE_SECONDS)


STRANGERS: dict[str, tuple[Callable[[], tuple[Shown, ...]], str]] = {
    "no certificate": (tuple, "it shows no certificate"),
    "of another authority": (
        lambda: (client_certificate(OTHER, KNOWN),),
        "unable to get local issuer certificate",
    ),
    "of a user": (lambda: (client_certificate(CLUSTER, "alice"),), "['alice']"),
    "of a kubelet": (lambda: (client_certificate(CLUSTER, "system:node:a"),), "['system:node:a']"),
    "of almost that name": (
        lambda: (client_certificate(CLUSTER, KNOWN + "\0"),),
        "its common name is one of",
    ),
    "of two names": (
        lambda: (client_certificate(CLUSTER, "alice", KNOWN),),
        f"['alice', '{KNOWN}']",
    ),
    "of no name": (lambda: (client_certificate(CLUSTER),), "one of []"),
    "of a name that only stands beside": (
        lambda: (client_certificate(CLUSTER, "alice", alternative=KNOWN),),
        "['alice']",
    ),
    "expired": (
        lambda: (client_certificate(CLUSTER, KNOWN, ends_in_seconds=-60),),
        "certificate has expired",
    ),
    "of a server": (
        lambda: (client_certificate(CLUSTER, KNOWN, usage=ExtendedKeyUsageOID.SERVER_AUTH),),
        "unsuit",
    ),
    "of a long name": (lambda: (client_certificate(CLUSTER, "a" * 64),), "aaa"),
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("stranger", list(STRANGERS))
async def test_who_is_not_known_is_not_answered(
    tmp_path: Path, stranger: str, version: ssl.TLSVersion
) -> None:
    """Whatever he shows; why stands in the log, and who is known is answered after him."""
    shown, words = STRANGERS[stranger]
    async with door(tmp_path, CLUSTER.certificate) as listener:
        assert await listener.asked(*shown(), version=version) == b""
        (problem,) = listener.problems
        assert words in problem
        known = client_certificate(CLUSTER, KNOWN)

        assert (await listener.asked(known, version=version)).startswith(ANSWER)


async def test_who_is_known_is_answered(tmp_path: Path) -> None:
    """Under each of the names, and by each of the authorities: while one takes over, there are two.

    An authority that another one has signed is believed by itself, and who signed it is not.
    """
    async with door(tmp_path, CLUSTER.certificate + OTHER.certificate) as listener:
        for by, name in ((CLUSTER, KNOWN), (OTHER, KNOWN), (CLUSTER, "b")):
            answer = await listener.asked(client_certificate(by, name))
            assert answer.startswith(ANSWER)
        assert listener.problems == []
    async with door(tmp_path, BETWEEN.certificate) as listener:
        assert (await listener.asked(client_certificate(BETWEEN, KNOWN))).startswith(ANSWER)
        assert await listener.asked(client_certificate(CLUSTER, KNOWN)) == b""


async def test_without_an_authority_nobody_is_asked(tmp_path: Path) -> None:
    """As long as the chart is told of none."""
    async with door(tmp_path, "") as listener:
        assert (await listener.asked()).startswith(ANSWER)
        assert (await listener.asked(client_certificate(OTHER, "alice"))).startswith(ANSWER)


async def test_strangers_do_not_fill_the_log(tmp_path: Path) -> None:
    """Each kind is told a few times, then once in a while; one kind does not hide another."""
    async with door(tmp_path, CLUSTER.certificate) as listener:
        for _ in range(TOLD_AT_ONCE + 5):
            assert await listener.asked() == b""
        assert len(listener.problems) == TOLD_AT_ONCE
        await listener.asked(client_certificate(CLUSTER, "alice"))
        assert "alice" in listener.problems[-1]
        assert len(listener.problems) == TOLD_AT_ONCE + 1
        listener.clock.seconds += 1 / TOLD_PER_SECOND
        for _ in range(3):
            await listener.asked()

        assert len(listener.problems) == TOLD_AT_ONCE + 2
