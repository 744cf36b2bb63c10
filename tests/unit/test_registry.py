"""Which credentials of a pull secret are for an image; many inputs are from others' reports."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from gpujob.api.transport import RegistryLogin
from gpujob.driver.registry import NoLogin, login_for, place_of, read_login

ANY = {"username": "any", "password": "any-password"}


def packed(text: str) -> str:
    """The form of `auth`."""
    return base64.b64encode(text.encode()).decode()


def entries(*keys: str) -> bytes:
    """A configuration whose users are called like their entries, by number."""
    auths = {key: {"username": f"user-{at}", "password": "password"} for at, key in enumerate(keys)}
    return json.dumps({"auths": auths}).encode()


PLACES = [
    ("ubuntu", "docker.io", "library/ubuntu"),
    ("ubuntu:24.04", "docker.io", "library/ubuntu"),
    ("team/app@sha256:" + "a" * 64, "docker.io", "team/app"),
    ("docker.io/ubuntu", "docker.io", "library/ubuntu"),
    ("index.docker.io/team/app:1", "docker.io", "team/app"),
    ("registry-1.docker.io/team/app", "docker.io", "team/app"),
    ("localhost/app", "localhost", "app"),
    ("localhost:5000/app:1", "localhost:5000", "app"),
    ("172.18.0.10:5000/library/nginx:latest", "172.18.0.10:5000", "library/nginx"),
    ("ghcr.io/org/app:1@sha256:" + "b" * 64, "ghcr.io", "org/app"),
    ("Registry.Example.com/app", "registry.example.com", "app"),
]


@pytest.mark.parametrize(("image", "host", "path"), PLACES)
def test_where_an_image_is(image: str, host: str, path: str) -> None:
    """As container engines read it."""
    assert place_of(image) == (host, tuple(path.split("/")))


CHOICES = [
    # The first key is the right one; the others are there to be wrong.
    ("team/app", ["https://index.docker.io/v1/", "ghcr.io"]),
    ("ubuntu", ["docker.io", "quay.io"]),
    ("ubuntu", ["https://index.docker.io/v2/"]),
    ("team/app", ["index.docker.io"]),
    ("team/app", ["https://registry-1.docker.io"]),
    ("docker.io/team/app", ["docker.io/team", "docker.io"]),
    ("ghcr.io/org/app:1", ["ghcr.io/org", "ghcr.io", "ghcr.io/other", "*.io"]),
    ("ghcr.io/org/app/deep:1", ["ghcr.io/org/app", "ghcr.io/org", "ghcr.io/org/app/deeper"]),
    ("ghcr.io/organisation/app", ["ghcr.io", "ghcr.io/org"]),
    ("registry.example.com:5000/a", ["registry.example.com:5000", "registry.example.com"]),
    ("registry.example.com/a", ["registry.example.com", "registry.example.com:5000"]),
    ("registry.example.com/a", ["https://registry.example.com"]),
    ("registry.example.com/a", ["http://registry.example.com/"]),
    ("registry.example.com/a", ["https://registry.example.com/v2/"]),
    ("registry.example.com/a", ["REGISTRY.example.com"]),
    # https://github.com/enix/kube-image-keeper/issues/92
    ("demo-api.jfrog.io/apidemo:v0.1", ["*.jfrog.io", "*.io", "jfrog.io", "*.*.jfrog.io"]),
    ("demo-api.jfrog.io/apidemo:v0.1", ["demo-api.jfrog.io", "*.jfrog.io"]),
    ("eu-west1.registry.example.com/a", ["eu-*.registry.example.com", "us-*.registry.example.com"]),
    ("reg.example.com:5000/a", ["*.example.com:5000", "*.example.com"]),
    # https://github.com/openkruise/kruise/issues/526
    ("hub.example.cn/team/app", ["https://hub.example.cn", "https://hub.example.com"]),
    # https://github.com/containerd/containerd/issues/5855
    ("rancher/k3s", ["registry-1.docker.io"]),
]


@pytest.mark.parametrize(("image", "keys"), CHOICES)
def test_the_right_entry_is_chosen(image: str, keys: list[str]) -> None:
    """Wherever it stands among the others."""
    for order in (keys, keys[::-1]):
        login = login_for(image, entries(*order))
        assert login.username.get_secret_value() == f"user-{order.index(keys[0])}"
        assert login.registry == place_of(image)[0]


@pytest.mark.parametrize(
    ("image", "keys"),
    [
        ("ghcr.io/org/app", ["docker.io", "ghcr.io/other", "ghcr.io:443", "xghcr.io", "io"]),
        ("ghcr.io/org/app", ["*"]),
        ("team/app", ["ghcr.io", "team"]),
        ("a.b.example.com/x", ["*.example.com"]),
        ("ghcr.io/org/app", [""]),
    ],
)
def test_no_other_registry_s_credentials_are_handed_out(image: str, keys: list[str]) -> None:
    """It is said which entries there are."""
    with pytest.raises(NoLogin, match="no entry for the registry"):
        login_for(image, entries(*keys))


CREDENTIALS = [
    ({"auth": packed("robot:secret")}, "robot", "secret"),
    # https://github.com/spotify/docker-client/issues/764, fsouza/go-dockerclient/issues/414
    ({"auth": packed("robot:a:b:c")}, "robot", "a:b:c"),
    # https://github.com/kubernetes/kubernetes/issues/82147: without its padding
    ({"auth": packed("robot:secret").rstrip("=")}, "robot", "secret"),
    ({"auth": packed("robot:secret")[:8] + "\n" + packed("robot:secret")[8:]}, "robot", "secret"),
    # https://github.com/coder/envbox/pull/42: the other alphabet
    (
        {"auth": base64.urlsafe_b64encode(b"robot:+/=!%:@~~".replace(b"~", b"")).decode()},
        "robot",
        "+/=!%:@",
    ),
    # https://github.com/confidential-containers/cloud-api-adaptor/issues/2455: no auth
    ({"username": "robot", "password": "secret"}, "robot", "secret"),
    # https://github.com/coder/envbox/issues/102: auth alone, or beside what differs
    ({"auth": packed("robot:secret"), "username": "old", "password": "old"}, "robot", "secret"),
    ({"auth": "", "username": "robot", "password": "secret", "email": "a@b"}, "robot", "secret"),
    ({"auth": packed("robot:secret\0\0")}, "robot", "secret"),
    # Amazon, Google and Azure as of their documentation
    ({"auth": packed("AWS:" + "eyJwYXlsb2FkIjoi" * 150)}, "AWS", "eyJwYXlsb2FkIjoi" * 150),
    (
        {"username": "oauth2accesstoken", "password": "ya29.a0-_x"},
        "oauth2accesstoken",
        "ya29.a0-_x",
    ),
    (
        {"username": "_json_key_base64", "password": packed('{"type": "service_account"}')},
        "_json_key_base64",
        packed('{"type": "service_account"}'),
    ),
    # Prescribed by NGC and by Harbor
    ({"auth": packed("$oauthtoken:nvapi-x_y")}, "$oauthtoken", "nvapi-x_y"),
    ({"username": "robot$team+x", "password": "x"}, "robot$team+x", "x"),
    (
        {"username": "00000000-0000-0000-0000-000000000000", "password": "x", "identitytoken": "t"},
        "00000000-0000-0000-0000-000000000000",
        "x",
    ),
]


@pytest.mark.parametrize(("entry", "user", "password"), CREDENTIALS)
def test_credentials_are_read_in_every_form(entry: Any, user: str, password: str) -> None:
    """And shown by no representation."""
    login = login_for("ghcr.io/a/b", json.dumps({"auths": {"ghcr.io": entry}}).encode())

    assert (login.username.get_secret_value(), login.password.get_secret_value()) == (
        user,
        password,
    )
    assert password == "x" or password not in f"{login!r} {login}"
    assert RegistryLogin.model_validate(login.wire()) == login


UNUSABLE = [
    # https://github.com/spotify/docker-client/issues/580
    ({"auth": packed("dockerman:"), "identityToken": "52ce5fd5"}, "identity token"),
    ({"identitytoken": "hunter2"}, "identity token"),
    ({}, "credential store"),
    ({"username": "robot"}, "credential store"),
    ({"auth": packed("hunter2")}, "user:password"),
    ({"auth": "hunter2!"}, "not base64"),
    ({"auth": base64.b64encode(b"robot:\xff").decode()}, "not base64"),
    ({"auth": 7}, "credential store"),
    ("hunter2", "not an object"),
    # https://github.com/docker-java/docker-java/issues/691
    ({"username": "developer", "password": "qW*2Y9_M>?kPK[3;hunter2"}, "password in its entry"),
    ({"username": "$(id)", "password": "hunter2"}, "username in its entry"),
    ({"username": "a", "password": "hunter2$x"}, "password in its entry"),
    ({"username": "-p", "password": "hunter2"}, "username in its entry"),
    ({"username": "a", "password": "x hunter2"}, "password in its entry"),
    ({"username": "a", "password": "hunter2\n"}, "password in its entry"),
    ({"username": "a", "password": "'hunter2'"}, "password in its entry"),
    ({"username": "a", "password": "`hunter2`"}, "password in its entry"),
    ({"username": "a", "password": "hunter2\u00e9"}, "password in its entry"),
    ({"username": "_json_key", "password": '{"hunter2": 1}'}, "password in its entry"),
    ({"username": "a b", "password": "hunter 2"}, "username and the password in its entry"),
    ({"username": "a", "password": "hunter2" * 2000}, "password in its entry"),
]


@pytest.mark.parametrize(("entry", "words"), UNUSABLE)
def test_what_cannot_be_used_is_said_without_its_value(entry: Any, words: str) -> None:
    """With what to do."""
    with pytest.raises(NoLogin, match=words) as caught:
        login_for("ghcr.io/a/b", json.dumps({"auths": {"ghcr.io": entry}}).encode())

    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"{}", b'{"auths": []}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_configuration_is_refused(text: bytes) -> None:
    """Whatever somebody has put there."""
    with pytest.raises(NoLogin, match="its Docker configuration"):
        login_for("ghcr.io/a/b", text)


def test_both_types_of_secret_are_read(tmp_path: Path) -> None:
    """https://github.com/kubernetes/kubernetes/issues/19219: the older one has no `auths`."""
    with pytest.raises(NoLogin, match=r"no key \.dockerconfigjson"):
        read_login(tmp_path, "team/app")
    legacy = {"https://index.docker.io/v1/": {"auth": packed("robot:old"), "email": "a@b"}}
    (tmp_path / ".dockercfg").write_text(json.dumps(legacy))
    assert read_login(tmp_path, "team/app").password.get_secret_value() == "old"
    (tmp_path / ".dockerconfigjson").write_bytes(entries("docker.io"))
    assert read_login(tmp_path, "team/app").password.get_secret_value() == "password"
