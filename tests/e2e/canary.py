"""The canary: how a secret may be spelt, and whether it stands where it does not belong.

Pure: what was seen, by place, comes from `evidence.py`.
"""

import base64
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise
from urllib.parse import quote, quote_plus

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)

PIECE_CHARACTERS = 24
"""Of a secret, at least, that are sought by themselves: messages are cut, key files have lines."""
WORD_BYTES = 8
HOMES = "machines/*/changes/root"
"""Root's home on a rented machine, where its keys are."""
WORK = "machines/*/changes/var/lib/gpujob"
"""Where all else of ours is on a rented machine."""
JSON_DEPTH = 3
"""Of JSON in JSON: an object in an annotation of an object that a line of a log shows."""


@dataclass(frozen=True)
class Secret:
    """A secret that is known to the test."""

    name: str
    value: bytes = field(repr=False)
    homes: tuple[str, ...] = ()
    """Where it is to be, as patterns of places; it must be seen at each of them."""
    haunts: tuple[str, ...] = ()
    """Where it may be besides, and be gone before anybody looks."""
    public: str = ""
    """What anybody may know of it, as it is shown: a key's other half stands in its file, too."""

    def belongs(self, place: str) -> bool:
        """Whether it may be there."""
        return any(fnmatchcase(place, pattern) for pattern in (*self.homes, *self.haunts))


@dataclass(frozen=True, order=True)
class Sighting:
    """A secret that was seen."""

    place: str
    secret: str
    form: str


@dataclass(frozen=True)
class Given:
    """Secrets that the test has made, or was told by whoever made them."""

    account_key: str
    bootstrap_token: str
    """In Secret `bootstrap` of the release's namespace."""
    api_token: str
    metrics_token: str
    password: str
    """A job's, in Secret `password` of namespace `canary`."""
    registry_password: str
    """Of the registry of that job's image, in Secret `registry` of the same namespace."""
    instance_keys: tuple[str, ...]
    notebook_tokens: tuple[str, ...]


def known(given: Given, seen: Mapping[str, bytes]) -> list[Secret]:
    """Returns all secrets: what was given, and what was seen at its home."""

    def of(component: str) -> list[str]:
        pods = _matching(seen, "objects/v1/pods/gpujob-system/*")
        label = "app.kubernetes.io/component"
        labels = {place: json.loads(pod)["metadata"]["labels"] for place, pod in pods.items()}
        return [
            place.rpartition("/")[2] for place, one in labels.items() if one[label] == component
        ]

    held = "objects/v1/secrets"
    variables = "processes/{}/environ"
    release = {
        part: [f"gpujob-system/{pod}" for pod in of(part)] for part in ("controller", "server")
    }
    found = [
        Secret(
            "account's key",
            given.account_key.encode(),
            homes=(
                f"{held}/vastsim/vast",
                f"{held}/gpujob-system/vast",
                *map(variables.format, ["vastsim/vastsim", *release["controller"]]),
                "requests/authorization",
            ),
        ),
        Secret(
            "bootstrap token",
            given.bootstrap_token.encode(),
            homes=(f"{held}/gpujob-system/bootstrap", *map(variables.format, release["server"])),
        ),
        Secret("API token", given.api_token.encode()),
        Secret("token for the metrics", _signature(given.metrics_token.encode())),
        Secret(
            "job's password",
            given.password.encode(),
            homes=(
                f"{held}/canary/password",
                variables.format("canary/*-driver"),
                variables.format("machines"),
            ),
            # The workload's shell removes it as it reads it.
            haunts=(f"{WORK}/runs/*/work*",),
        ),
        Secret(
            "password of the registry",
            given.registry_password.encode(),
            homes=(
                f"{held}/canary/registry",
                "files/canary/*-driver/etc/gpujob/registry/*",
                # The provider pulls the image.
                "requests/bodies",
            ),
        ),
        *(
            Secret(
                f"instance key {number}",
                key.encode(),
                homes=("requests/authorization",),
                # Its first process has it, and the start script keeps that one's environment.
                haunts=(variables.format("machines"), f"{WORK}/environ"),
            )
            for number, key in enumerate(given.instance_keys, 1)
        ),
        *(
            Secret(f"notebook token {number}", token.encode())
            for number, token in enumerate(given.notebook_tokens, 1)
        ),
    ]
    for pattern in ("*/secrets/gpujob.dev/*/token", "*/serviceaccount/*/token"):
        for place, token in _matching(seen, pattern).items():
            found.append(Secret(place, _signature(token), homes=(place,)))
    for place, key in _matching(seen, "machines/*/etc/ssh/ssh_host_ed25519_key").items():
        found.append(Secret(place, key, homes=(place,), public=_public(key)))
    for place, data in _matching(seen, f"{held}/*").items():
        secret = json.loads(data)
        values = {name: base64.b64decode(value) for name, value in secret.get("data", {}).items()}
        if "id_ed25519" in values:
            key = values["id_ed25519"]
            namespace, node = place.split("/")[3], secret["metadata"]["name"].split("-ssh-")[0]
            drivers = f"files/{namespace}/{node}-driver/etc/gpujob/ssh/*"
            found.append(Secret(place, key, (place,), (drivers,), _public(key)))
        if secret.get("type") == "gpujob.dev/mark-keys":
            found += [Secret(f"{place} {name}", key, (place,)) for name, key in values.items()]
        public = "".join(one.decode() for name, one in values.items() if name.endswith(".crt"))
        found += [
            Secret(f"{place} {name}", key, (place,), public=public)
            for name, key in values.items()
            if name.endswith(".key")
        ]
    return found


def _public(key: bytes) -> str:
    """Returns the half of an SSH key that its machine is given."""
    public = load_ssh_private_key(key, None).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _signature(token: bytes) -> bytes:
    """What stands before it in a service account's token tells who it is, and is worth nothing."""
    return token.rpartition(b".")[2]


def _matching(seen: Mapping[str, bytes], pattern: str) -> dict[str, bytes]:
    return {place: data for place, data in sorted(seen.items()) if fnmatchcase(place, pattern)}


def search(secrets: Collection[Secret], seen: Mapping[str, bytes]) -> list[Sighting]:
    """Returns every secret in every place where it stands, in whichever form it was found there."""
    needles = spelt(secrets)
    # Whatever is as long as two words but a byte has a whole one of those that the data is cut
    # into: few needles are left to look for.
    by_word: dict[int, set[bytes]] = defaultdict(set)
    for needle in needles:
        assert len(needle) >= 2 * WORD_BYTES - 1, "a shorter one would not be found everywhere"
        for at in range(len(needle) - WORD_BYTES + 1):
            by_word[int.from_bytes(needle[at : at + WORD_BYTES], sys.byteorder)].add(needle)
    found = set()
    for place, data in seen.items():
        words = memoryview(data)[: len(data) // WORD_BYTES * WORD_BYTES].cast("Q")
        for word in by_word.keys() & set(words):
            found |= {Sighting(place, *needles[one]) for one in by_word[word] if one in data}
    return sorted(found)


def leaks(secrets: Iterable[Secret], sightings: Iterable[Sighting]) -> list[Sighting]:
    """Returns what was seen where it does not belong."""
    by_name = {secret.name: secret for secret in secrets}
    return [one for one in sightings if not by_name[one.secret].belongs(one.place)]


def unseen(secrets: Iterable[Secret], sightings: Iterable[Sighting]) -> list[str]:
    """Returns homes where a secret was not seen: whoever looked there was blind."""
    seen: dict[str, set[str]] = {}
    for one in sightings:
        seen.setdefault(one.secret, set()).add(one.place)
    return [
        f"{secret.name}: {home}"
        for secret in secrets
        for home in secret.homes
        if not any(fnmatchcase(place, home) for place in seen.get(secret.name, ()))
    ]


def spelt(secrets: Collection[Secret]) -> dict[bytes, tuple[str, str]]:
    """Returns all that is sought: the name of its secret and of its form, by the bytes.

    A piece that stands in several secrets, such as the first one of every key file, is none; nor
    is one that is public: one private key in 256 ends so that a piece begins as its other half.
    """
    pieces = {secret.name: _pieces(secret.value) for secret in secrets}
    public = {secret.name: secret.public.encode() for secret in secrets}
    counts = Counter(piece for found in pieces.values() for piece in found)
    return {
        needle: (name, form)
        for name, found in pieces.items()
        for piece in sorted(found)
        if counts[piece] == 1 and piece not in public[name]
        # The plainest name last: it is the one that stays.
        for form, needles in reversed(forms(piece).items())
        for needle in needles
    }


def _pieces(value: bytes) -> set[bytes]:
    """Returns each line of a value in pieces that leave nothing out; what is no text, whole."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {value}
    found = set()
    for line in text.split("\n"):
        if not line.startswith("-----"):
            count = max(len(line) // PIECE_CHARACTERS, 1)
            ends = [len(line) * number // count for number in range(count + 1)]
            found |= {line[start:end] for start, end in pairwise(ends)}
    return {piece.encode() for piece in found if len(piece) >= PIECE_CHARACTERS}


def forms(data: bytes) -> dict[str, set[bytes]]:
    """Returns every spelling of some bytes, the plainest first."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        # As Python shows what is no text.
        text = repr(data)[2:-1]
    return {
        "raw": {data},
        "json": _json(text),
        "address": _address(data),
        "base64": _base64(data),
        "hex": {data.hex().encode(), data.hex().upper().encode()},
    }


def _json(text: str) -> set[bytes]:
    found = {text}
    for _ in range(JSON_DEPTH):
        shown = {
            json.dumps(one, ensure_ascii=ascii)[1:-1] for one in found for ascii in (False, True)
        }
        # As Go writes it.
        found |= shown | {re.sub("[<>&]", lambda at: f"\\u{ord(at[0]):04x}", one) for one in shown}
    return {one.encode() for one in found}


def _address(data: bytes) -> set[bytes]:
    found = {quote(data, safe=""), quote(data), quote_plus(data)}
    found |= {re.sub("%..", lambda at: at[0].lower(), one) for one in found}
    return {one.encode() for one in found}


def _base64(data: bytes) -> set[bytes]:
    """What stands before shifts it by 0, 2 or 4 bits: the characters that hold nothing else."""
    found = set()
    for before in range(3):
        first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(before) + data)[first:last])
    return found
