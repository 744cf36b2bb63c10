"""Which credentials of a job's pull secret are those for the registry of its image.

The rules are the kubelet's (https://kubernetes.io/docs/concepts/containers/images/, "Interpretation
of config.json"), except that a key's path matches whole parts of the image's only.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gpujob.api.transport import RegistryLogin

DOCKER_HUB = "docker.io"
HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
FILES = (".dockerconfigjson", ".dockercfg")
"""The keys of Secrets of types `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`."""
KEYS_TOLD = 5


class NoLogin(ValueError):
    """The secret has no credentials that can be used for the image; says why, without values."""


def read_login(folder: Path, image: str) -> RegistryLogin:
    """Returns the credentials for an image from a mounted Secret; raises NoLogin."""
    for name in FILES:
        try:
            return login_for(image, (folder / name).read_bytes(), is_legacy=name == FILES[1])
        except FileNotFoundError:
            continue
        except OSError as error:
            raise NoLogin(f"its key {name} cannot be read: {error.strerror}") from None
    raise NoLogin(
        "it has no key .dockerconfigjson; make it with kubectl create secret docker-registry"
    )


def login_for(image: str, config: bytes, *, is_legacy: bool = False) -> RegistryLogin:
    """Returns the credentials of the entry that is for the image; raises NoLogin.

    `config` is the text of a Docker configuration; a legacy one has its entries at the top.
    """
    try:
        held = json.loads(config)
    except (ValueError, RecursionError):
        raise NoLogin("its Docker configuration is not JSON") from None
    entries = held if is_legacy or not isinstance(held, dict) else held.get("auths")
    if not isinstance(entries, dict):
        raise NoLogin('its Docker configuration has no object "auths"')
    host, path = place_of(image)
    found = [
        (len(key_path), "*" not in key_host, key)
        for key in entries
        for key_host, key_path in (_place_of_key(key),)
        if _is_for(key_host, key_path, host, path)
    ]
    if not found:
        known = ", ".join(list(entries)[:KEYS_TOLD]) or "none"
        raise NoLogin(f"it has no entry for the registry {host}; its entries: {known}")
    key = max(found)[-1]
    user, password = _credentials(entries[key], key)
    try:
        return RegistryLogin.model_validate(
            {"registry": host, "username": user, "password": password}
        )
    except ValidationError as error:
        wrong = " and the ".join(str(one["loc"][0]) for one in error.errors(include_input=False))
        raise NoLogin(
            f"the {wrong} in its entry {key} cannot be passed on: the provider takes them as "
            "arguments of a command, so spaces, quotes, $ and other signs that a shell interprets "
            "are refused; use a token of letters, digits and _ . , : @ % + = / ! -"
        ) from None


def place_of(image: str) -> tuple[str, tuple[str, ...]]:
    """Returns an image's registry (host and port) and the parts of its path, without its tag."""
    name = image.partition("@")[0]
    before, _, last = name.rpartition("/")
    name = f"{before}/{last.partition(':')[0]}" if before else last.partition(":")[0]
    first, _, rest = name.partition("/")
    if rest and (set(".:") & set(first) or first == "localhost"):
        host = first.lower()
        parts = tuple(rest.split("/"))
        if host not in HUB_NAMES:
            return host, parts
    else:
        parts = tuple(name.split("/"))
    return DOCKER_HUB, parts if len(parts) > 1 else ("library", *parts)


def _place_of_key(key: str) -> tuple[str, tuple[str, ...]]:
    """Returns the host and the path that an entry is for; `https://HOST/v1/` is for the host."""
    host, _, path = key.strip().rpartition("://")[2].partition("/")
    parts = tuple(part for part in path.split("/") if part)
    if parts and parts[0] in ("v1", "v2"):
        parts = parts[1:]
    host = host.lower()
    return (DOCKER_HUB if host in HUB_NAMES else host), parts


def _is_for(key_host: str, key_path: tuple[str, ...], host: str, path: tuple[str, ...]) -> bool:
    wanted, _, wanted_port = key_host.partition(":")
    name, _, port = host.partition(":")
    labels, names = wanted.split("."), name.split(".")
    return (
        wanted_port == port
        and len(labels) == len(names)
        # A * stands for one label, or a part of one.
        and all(fnmatchcase(one, label) for label, one in zip(labels, names, strict=True))
        and path[: len(key_path)] == key_path
    )


def _credentials(entry: Any, key: str) -> tuple[str, str]:
    if not isinstance(entry, Mapping):
        raise NoLogin(f"its entry {key} is not an object")
    texts = {str(name).lower(): value for name, value in entry.items() if isinstance(value, str)}
    user, password = texts.get("username", ""), texts.get("password", "")
    if packed := "".join(texts.get("auth", "").split()):
        user, password = _unpacked(packed, key)
    if user and password:
        return user, password
    if texts.get("identitytoken") or texts.get("registrytoken"):
        raise NoLogin(
            f"its entry {key} has only an identity token, which the provider cannot use; put a "
            "user name and a password or access token there"
        )
    raise NoLogin(
        f"its entry {key} has no user name and password; docker login may have put them into the "
        "credential store of the computer where it ran"
    )


def _unpacked(packed: str, key: str) -> tuple[str, str]:
    """Returns user and password from base64 with or without padding, in either alphabet."""
    bare = packed.translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        text = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        raise NoLogin(f'in its entry {key} "auth" is not base64 of a text') from None
    user, colon, password = text.partition(":")
    if not colon:
        raise NoLogin(f'in its entry {key} "auth" is not base64 of user:password')
    # Docker itself drops these from the end.
    return user, password.strip("\0")
