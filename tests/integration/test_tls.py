"""The transport's certificates in a whole operator: rotated under drivers, and what is refused."""

import base64
import http.client
import socket
import ssl
from contextlib import closing, suppress
from datetime import UTC, datetime

import pytest
from tests.authority import certificate
from tests.integration.conftest import World
from tests.integration.parts import LONE_LOCK, Object, authorities, eventually

from gpujob.adapters import pki
from gpujob.adapters.transport import trust_in

HURRIED = LONE_LOCK | {
    "GPUJOB_CERTIFICATE_LIFE_SECONDS": "60",
    "GPUJOB_CERTIFICATE_OVERLAP_SECONDS": "10",
}
"""The life of a certificate, and how long before its use it is trusted: longer than a start takes,
since a driver is told only by who leads."""


NAME = "gpujob-transport-tls"


def secret(world: World) -> Object:
    """The Secret with the transport's certificates."""
    found: Object = eventually(
        "the certificate is stored",
        lambda: world.kubectl.get("secret", NAME, "gpujob-system"),
    )
    return found


def presented(world: World) -> str:
    """The certificate that a new connection gets, verified by what is published at present.

    Empty as long as nobody listens.
    """
    with (
        suppress(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", world.operator.transport_port), 10) as line,
        world.trust().wrap_socket(line, server_hostname="127.0.0.1") as secured,
    ):
        assert secured.version() == "TLSv1.3"
        return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"")
    return ""


def test_a_driver_goes_on_through_rotations(stage: World) -> None:
    """The job began under an authority that is not trusted any more when it ends.

    The operator is not restarted for a rotation, but once after it: the driver then has to connect
    anew, and is not replaced.
    """
    world = stage
    world.operator.start(**HURRIED)
    first = authorities(world.kubectl)
    world.apply_job("train", command=world.waits())
    world.await_reason("train", "Running")
    before = presented(world)
    shown = eventually("another is used", lambda: _other(presented(world), before))
    eventually("the first is forgotten", lambda: first not in authorities(world.kubectl))
    assert _other(presented(world), shown)
    world.operator.stop()
    world.operator.start(**HURRIED)
    listed = ("pods", "-n", world.namespace)
    (pod,) = world.kubectl.items(*listed)
    world.let_go()
    job = world.await_reason("train", "Complete")

    assert job["status"]["attempt"] == 1
    assert {one["metadata"]["uid"] for one in world.kubectl.items(*listed)} <= {
        pod["metadata"]["uid"]
    }
    given = next(
        one["value"]
        for one in pod["spec"]["containers"][0]["env"]
        if one["name"] == "GPUJOB_TRANSPORT_AUTHORITIES"
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        _call(world, trust_in(given))
    assert "PRIVATE" not in world.operator.log


def test_a_driver_that_trusts_the_controller_no_more_is_replaced(stage: World) -> None:
    """The workload goes on, and nobody is blamed: somebody deleted the Secret between two leaders.

    The driver knows no authority of the new certificate, so it can be told of none.
    """
    world = stage
    world.operator.start()
    world.apply_job("train", command=world.waits())
    world.await_reason("train", "Running")
    (pod,) = world.kubectl.items("pods", "-n", world.namespace)
    world.operator.kill()
    world.kubectl.run("delete", "secret", NAME, "-n", "gpujob-system")
    world.operator.start(GPUJOB_DRIVER_REPLACEMENT_SECONDS="10")
    uid = pod["metadata"]["uid"]
    eventually(
        "another driver is there",
        lambda: [
            one["metadata"]["uid"]
            for one in world.kubectl.items("pods", "-n", world.namespace)
            if one["metadata"]["uid"] != uid
        ],
    )
    world.let_go()
    job = world.await_reason("train", "Complete")

    assert job["status"]["attempt"] == 1
    assert len(world.simulator.ledger()) == 1


def _other(now: str, before: str) -> str:
    return now if now != before else ""


def _call(world: World, trusting: ssl.SSLContext) -> int:
    port = world.operator.transport_port
    line = http.client.HTTPSConnection("127.0.0.1", port, context=trusting, timeout=10)
    with closing(line):
        line.request("POST", "/v1/driver/sync", "{}", {"Content-Type": "application/json"})
        return line.getresponse().status


@pytest.mark.shared_world
def test_who_does_not_speak_our_tls_is_not_answered(world: World) -> None:
    """Neither in plain HTTP nor in an older TLS; the same question over ours is."""
    eventually("it listens", lambda: presented(world))
    plain = http.client.HTTPConnection("127.0.0.1", world.operator.transport_port, timeout=10)
    with closing(plain):
        plain.request("POST", "/v1/driver/sync", "{}", {"Authorization": "Bearer x.y.z"})
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            plain.getresponse()
    older = world.trust()
    older.minimum_version = ssl.TLSVersion.TLSv1_2
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="SSL"):
        _call(world, older)

    assert _call(world, world.trust()) == 401


def test_a_certificate_that_somebody_puts_there_is_used_without_a_restart(stage: World) -> None:
    """An administrator's own, for example; in place of an unusable one, the last comes back."""
    world = stage
    # A Secret is looked at four times in each overlap.
    world.operator.start(GPUJOB_CERTIFICATE_OVERLAP_SECONDS="2")
    eventually("it listens", lambda: presented(world))
    made = pki.make(frozenset({"127.0.0.1"}), now=datetime.now(UTC), life_seconds=86_400)

    def put(key: str) -> None:
        texts = {"ca.crt": made.authority, "tls.crt": made.chain, "tls.key": key}
        data = {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}
        world.kubectl.apply(secret(world) | {"data": data})

    def is_used() -> bool:
        # Unlike a rotation, this has no overlap: what was trusted a moment ago may fit no longer.
        with suppress(ssl.SSLCertVerificationError):
            return presented(world) == made.chain
        return False

    put(made.key.get_secret_value())
    eventually("it is used", is_used)
    whole = secret(world)
    seen = whole["metadata"]["resourceVersion"]

    def is_put_back() -> bool:
        stored = world.kubectl.get("secret", NAME, "gpujob-system")
        if stored is None or stored["metadata"]["resourceVersion"] == seen:
            return False
        return bool(stored["data"]["tls.key"] == whole["data"]["tls.key"])

    for key in (certificate("127.0.0.1").key.get_secret_value(), "garbage", None):
        if key is not None:
            put(key)
        else:
            world.kubectl.run("delete", "secret", NAME, "-n", "gpujob-system")
        eventually("it is put back", is_put_back)
        seen = secret(world)["metadata"]["resourceVersion"]
        assert presented(world) == made.chain


@pytest.mark.shared_world
def test_the_server_may_not_read_the_controller_s_key(world: World) -> None:
    """Else whoever breaks into it could speak to drivers as the controller."""
    secret(world)
    read = ("auth", "can-i", "get", "secret/gpujob-transport-tls", "-n", "gpujob-system")
    account = "--as=system:serviceaccount:gpujob-system"

    assert world.kubectl.run(*read, f"{account}:gpujob").stdout.strip() == "yes"
    assert world.kubectl.run(*read, f"{account}:gpujob-server").stdout.strip() == "no"
