"""The canary's eye: a secret is found in every form, and only where it does not belong."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from urllib.parse import quote, quote_plus

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.e2e.canary import HOMES, Given, Secret, Sighting, known, leaks, search, unseen

VALUE = 'canary 0123456789abcdef "\\ö+/<&>=%'
NOTHING = Given("", "", "", "", "", "", (), ())
KEY = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n"
    "QyNTUxOQAAACAcanarycanarycanarycanarycanarycanarycanarycanarycanarycana\n"
    "-----END OPENSSH PRIVATE KEY-----\n"
)
OTHER_KEY = KEY.replace("canary", "yranac")
DATA = VALUE.encode()


def _base64(encode: Callable[[bytes], bytes], before: bytes, data: bytes) -> bytes:
    return encode(before + data + b"yz")


FORMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "as it is": ("raw", lambda data: b"key=" + data + b";"),
    "in JSON": ("json", lambda data: json.dumps({"a": data.decode()}).encode()),
    "in JSON, not of ASCII alone": (
        "json",
        lambda data: json.dumps([data.decode()], ensure_ascii=False).encode(),
    ),
    "in JSON in JSON in JSON": (
        "json",
        lambda data: json.dumps([json.dumps([json.dumps([data.decode()])])]).encode(),
    ),
    "in Go's JSON": (
        "json",
        lambda data: (
            json.dumps(data.decode(), ensure_ascii=False)
            .replace("<", "\\u003c")
            .replace(">", "\\u003e")
            .replace("&", "\\u0026")
            .encode()
        ),
    ),
    "in a query": ("address", lambda data: b"?a=" + quote_plus(data).encode() + b"&b=1"),
    "in a path": ("address", lambda data: b"/a/" + quote(data, safe="").encode() + b"/b"),
    "in a path, in small letters": (
        "address",
        lambda data: re.sub("%..", lambda at: at[0].lower(), quote(data, safe="")).encode(),
    ),
    "in hexadecimal digits": ("hex", lambda data: b"0x" + data.hex().encode()),
    "in large ones": ("hex", lambda data: data.hex().upper().encode()),
    **{
        f"in base64 after {before} bytes": (
            "base64",
            partial(_base64, base64.b64encode, b"x" * before),
        )
        for before in range(4)
    },
    **{
        f"in an address's base64 after {before} bytes": (
            "base64",
            partial(_base64, base64.urlsafe_b64encode, b"?" * before),
        )
        for before in range(4)
    },
}


@pytest.mark.parametrize("how", FORMS)
def test_a_secret_is_found_in_every_form(how: str) -> None:
    """Among other bytes, at whatever place."""
    form, spelt = FORMS[how]
    secret = Secret("password", DATA, homes=("home/*",))
    place = f"logs/{how}"
    seen = {place: b"\xff\0" * 99 + spelt(DATA) + b"\n", "logs/other": b"canary 0123456789abcde"}
    found = search([secret], seen)

    assert found == [Sighting(place, "password", form)]
    assert leaks([secret], found) == found


@pytest.mark.parametrize("how", FORMS)
def test_one_line_of_a_key_is_enough(how: str) -> None:
    """Its first line is every key's, and tells nothing; a key's second line is its own."""
    form, spelt = FORMS[how]
    keys = [Secret("mine", KEY.encode()), Secret("yours", OTHER_KEY.encode())]
    first, second = (line.encode() for line in KEY.splitlines()[1:3])
    seen = {"first": spelt(first), "second": spelt(second)}

    # No character of such a line is escaped.
    wanted = "raw" if form in ("json", "address") else form
    assert search(keys, seen) == [Sighting("second", "mine", wanted)]


@pytest.mark.parametrize("before", range(9))
def test_a_secret_that_was_cut_is_found(before: int) -> None:
    """At either end: messages are as long as somebody allows."""
    token = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(9))
    secret = Secret("token", token.encode())
    seen = {
        "head": b"x" * before + token[:60].encode(),
        "tail": b"y" * before + token[-60:].encode(),
    }
    found = search([secret], seen | {"scrap": token[:20].encode()})

    assert [one.place for one in found] == ["head", "tail"]


def test_a_secret_at_home_is_no_leak_and_an_empty_home_is_told() -> None:
    """Whoever looks where a secret is to be, and does not see it, sees no leak either."""
    secret = Secret("password", DATA, homes=("home/*/a", "house"), haunts=("street/*",))
    seen = {"home/1/a": DATA, "street/7": DATA, "home/1/b": DATA}
    found = search([secret], seen)

    assert [one.place for one in leaks([secret], found)] == ["home/1/b"]
    assert unseen([secret], found) == ["password: house"]


def test_the_public_half_of_a_key_is_no_leak() -> None:
    """The file of a key that ends in 0x20 has a piece that stands in its public half as well."""
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"key").digest()[:31] + b" ")
    file = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    home = "objects/v1/secrets/demo/train-0-1-ssh-1"
    data = {"id_ed25519": base64.b64encode(file).decode()}
    secret = json.dumps({"metadata": {"name": "train-0-1-ssh-1"}, "data": data}).encode()
    seen = {home: secret, f"{HOMES}/.ssh/authorized_keys": public, "log": file[-150:]}
    secrets = known(NOTHING, {home: secret})

    found = search([one for one in secrets if one.value], seen)
    assert [one.place for one in leaks(secrets, found)] == ["log"]


def test_the_keys_of_marks_and_certificates_are_sought() -> None:
    """The first are no text, and are shown as Python shows bytes, or packed."""
    marks, at_home = bytes(range(160, 192)), "objects/v1/secrets/gpujob-system/gpujob-api-marks"
    tls, tls_home = KEY.encode(), "objects/v1/secrets/gpujob-system/gpujob-transport-tls"
    following = OTHER_KEY.encode()

    def stored(kind: str, **data: bytes) -> bytes:
        texts = {name: base64.b64encode(value).decode() for name, value in data.items()}
        named = {name.replace("_", "."): text for name, text in texts.items()}
        meta = {"name": "x"}
        return json.dumps({"metadata": meta, "type": kind, "data": named}).encode()

    seen = {
        at_home: stored("gpujob.dev/mark-keys", key=marks),
        tls_home: stored("kubernetes.io/tls", tls_crt=b"public", tls_key=tls, next_key=following),
        "logs/repr": f"key={marks!r}".encode(),
        "logs/json": json.dumps({"key": repr(marks)}).encode(),
        "logs/raw": b"x" + marks,
        "logs/packed": base64.b64encode(b"." + marks),
        "logs/hex": marks.hex().encode(),
        "logs/tls": KEY.splitlines()[2].encode(),
        "logs/next": base64.b64encode(following),
    }
    found = [one for one in known(NOTHING, seen) if one.value]
    sightings = search(found, seen)

    assert {one.name for one in found} == {
        f"{at_home} key",
        f"{tls_home} tls.key",
        f"{tls_home} next.key",
    }
    leaked = {one.place for one in leaks(found, sightings)}
    assert leaked == {one for one in seen if one.startswith("logs/")}
    assert unseen(found, sightings) == []
