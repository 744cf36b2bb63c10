"""The controller's settings: what is wrong is named, the token is shown to nobody."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.authority import client_certificate, cluster_authority

from gpujob.adapters.environment import ConfigError
from gpujob.controller.settings import Settings
from gpujob.core.api_tokens import token_of
from gpujob.core.machine.driver_defaults import STANDARD
from gpujob.server.settings import ServerSettings

GOOD = {
    "VAST_API_KEY": "token-1234",
    "GPUJOB_DRIVER_IMAGE": "x:1",
    "GPUJOB_TRANSPORT_URL": "https://x:8080",
    "GPUJOB_NAMESPACE": "gpujob-system",
    "GPUJOB_POD_NAME": "gpujob-0",
    "GPUJOB_POD_IPS": "192.0.2.1",
}


def driver(**changes: object) -> str:
    """What the chart says of all driver pods, changed."""
    return json.dumps(STANDARD.wire() | changes)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"VAST_API_KEY": ""}, "VAST_API_KEY"),
        ({"VAST_API_KEY": "token\n"}, "VAST_API_KEY"),
        ({"GPUJOB_DRIVER_IMAGE": None}, "GPUJOB_DRIVER_IMAGE"),
        ({"GPUJOB_TRANSPORT_URL": None}, "GPUJOB_TRANSPORT_URL"),
        ({"GPUJOB_TRANSPORT_URL": "http://x:8080"}, "GPUJOB_TRANSPORT_URL"),
        ({"GPUJOB_NAMESPACE": None}, "GPUJOB_NAMESPACE"),
        ({"GPUJOB_POD_NAME": None}, "GPUJOB_POD_NAME"),
        ({"GPUJOB_POD_IPS": "localhost"}, "GPUJOB_POD_IPS"),
        ({"GPUJOB_POD_IPS": "192.0.2.1,"}, "GPUJOB_POD_IPS"),
        ({"GPUJOB_POD_IPS": "192.0.2.1,192.0.2.2"}, "GPUJOB_POD_IPS"),
        ({"GPUJOB_PROVIDER_URL": "console.vast.ai"}, "GPUJOB_PROVIDER_URL"),
        ({"GPUJOB_PROVIDER_PROXY_URL": "proxy:3128"}, "GPUJOB_PROVIDER_PROXY_URL"),
        ({"GPUJOB_PROVIDER_PROXY_URL": "http://proxy:3128/x"}, "GPUJOB_PROVIDER_PROXY_URL"),
        ({"GPUJOB_PROVIDER_PROXY_URL": "http://u:token@proxy"}, "GPUJOB_PROVIDER_PROXY_PASSWORD"),
        (
            {"GPUJOB_PROVIDER_PROXY_URL": "http://proxy", "GPUJOB_PROVIDER_URL": "http://x"},
            "GPUJOB_PROVIDER_URL of https",
        ),
        ({"GPUJOB_POLL_SECONDS": "often"}, "GPUJOB_POLL_SECONDS"),
        ({"GPUJOB_POLL_SECONDS": "-1"}, "GPUJOB_POLL_SECONDS"),
        ({"GPUJOB_POLL_SECONDS": "nan"}, "GPUJOB_POLL_SECONDS"),
        ({"GPUJOB_PATIENCE": "1"}, "GPUJOB_PATIENCE"),
        ({"GPUJOB_LOCK_DURATION_SECONDS": "11"}, "GPUJOB_LOCK_RENEW_DEADLINE_SECONDS"),
        ({"GPUJOB_RENT_NOT_AFTER_SECONDS": "14"}, "GPUJOB_RENT_NOT_AFTER_SECONDS"),
        ({"GPUJOB_DRIVER": "{"}, "GPUJOB_DRIVER"),
        ({"GPUJOB_DRIVER": driver(labels={"a": "b c"})}, "GPUJOB_DRIVER: labels.a"),
        ({"GPUJOB_DRIVER": driver(labels={"gpujob.dev/job": "x"})}, "remove gpujob.dev/job"),
        ({"GPUJOB_DRIVER": driver(resources=None)}, "GPUJOB_DRIVER: resources"),
        ({"GPUJOB_DRIVER": driver(podSecurityContext={})}, "podSecurityContext.runAsNonRoot"),
        ({"GPUJOB_LABELS_TO_COPY": "team,gpujob.dev/job"}, "remove gpujob.dev/job"),
        ({"GPUJOB_LABELS_TO_COPY": "a b"}, "GPUJOB_LABELS_TO_COPY: 'a b' is no key"),
        ({"GPUJOB_LABELS_TO_COPY": "a-b,a.b"}, "a-b and a.b would be one label in metrics"),
        ({"GPUJOB_CLIENTS_NAMES": "jobs.example.com,*.example.com"}, "'*.example.com' is none"),
        ({"GPUJOB_CLIENTS_NAMES": "https://jobs.example.com"}, "GPUJOB_CLIENTS_NAMES must hold"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, str | None], word: str) -> None:
    """The message holds the variable's name, and never the token."""
    environment = {name: text for name, text in (GOOD | change).items() if text is not None}
    with pytest.raises(ConfigError) as refused:
        Settings.from_environment(environment)

    assert word in str(refused.value)
    assert "token" not in str(refused.value)


@pytest.mark.parametrize("token", ["letmein", "a" * 64, "VJ3kq1c9Zr0y8nJm5wQd2sLhT7uXbEaG"])
def test_a_weak_token_stops_the_start(token: str) -> None:
    """With the command that makes a good one, and without the weak one."""
    environment = {"GPUJOB_NAMESPACE": "x", "GPUJOB_API_BOOTSTRAP_TOKEN": token}
    with pytest.raises(ConfigError) as refused:
        ServerSettings.from_environment(environment)

    assert "gpujob token NAME --bootstrap" in str(refused.value)
    assert token not in str(refused.value)


def test_the_api_s_token_is_shown_to_nobody() -> None:
    """And development is asked for by name."""
    token = token_of(bytes(range(0, 96, 3)))
    environment = {"GPUJOB_NAMESPACE": "x", "GPUJOB_API_BOOTSTRAP_TOKEN": token}
    settings = ServerSettings.from_environment(environment)

    assert settings.api_bootstrap_token.get_secret_value() == token
    assert settings.api_mode == "production"
    assert token not in repr(settings)
    with pytest.raises(ConfigError, match="production or development"):
        ServerSettings.from_environment(environment | {"GPUJOB_API_MODE": "debug"})


AUTHORITY = cluster_authority()
KNOWN = {
    "GPUJOB_NAMESPACE": "x",
    "GPUJOB_ADMISSION_CLIENT_CA": AUTHORITY.certificate,
    "GPUJOB_ADMISSION_CLIENT_NAMES": "gpujob-webhook-client,system:a",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"NAMES": ""}, "must be set together"),
        ({"CA": ""}, "must be set together"),
        ({"CA": " "}, "it is no certificate in PEM"),
        ({"CA": "/etc/kubernetes/pki/ca.crt"}, "it is no certificate in PEM"),
        ({"CA": AUTHORITY.certificate[:200]}, "it is no certificate in PEM"),
        ({"CA": "# für uns\n" + AUTHORITY.certificate}, "it is no certificate in PEM"),
        ({"CA": AUTHORITY.key.get_secret_value()}, "it holds a private key"),
        (
            {"CA": AUTHORITY.certificate + AUTHORITY.key.get_secret_value()},
            "it holds a private key",
        ),
        (
            {"CA": AUTHORITY.certificate + client_certificate(AUTHORITY, "alice")[0]},
            "'CN=alice' is no authority",
        ),
        ({"NAMES": "a,,b"}, "must be common names"),
        ({"NAMES": "a,*"}, "must be common names"),
        ({"NAMES": "a, b"}, "must be common names"),
    ],
)
def test_whom_admission_may_know_is_checked_at_the_start(
    change: dict[str, str], words: str
) -> None:
    """Else nobody would be let in, or too many; and no key that was pasted is shown."""
    changed = {f"GPUJOB_ADMISSION_CLIENT_{name}": text for name, text in change.items()}
    with pytest.raises(ConfigError) as refused:
        ServerSettings.from_environment(KNOWN | changed)

    assert words in str(refused.value)
    assert AUTHORITY.key.get_secret_value()[30:60] not in str(refused.value)


def test_admission_may_know_several_authorities_and_names() -> None:
    """While one takes over from another."""
    both = AUTHORITY.certificate + cluster_authority(by=AUTHORITY).certificate
    settings = ServerSettings.from_environment(KNOWN | {"GPUJOB_ADMISSION_CLIENT_CA": both})

    assert settings.admission_client_ca == both


def test_the_api_needs_a_controller_to_ask() -> None:
    """Where it is, is told at the start and not missed at the first question."""
    environment = {"GPUJOB_NAMESPACE": "x", "GPUJOB_API_PORT": "8444"}
    for url in ("", "gpujob:8080", "http://gpujob"):
        with pytest.raises(ConfigError, match="GPUJOB_TRANSPORT_URL"):
            ServerSettings.from_environment(environment | {"GPUJOB_TRANSPORT_URL": url})

    environment["GPUJOB_TRANSPORT_URL"] = "https://gpujob.system.svc:8080"
    assert ServerSettings.from_environment(environment).api_port == 8444


def test_what_driver_pods_have_is_a_setting() -> None:
    """Without it, they have what the chart sets by default."""
    told = {"GPUJOB_DRIVER": driver(priorityClassName="batch"), "GPUJOB_LABELS_TO_COPY": "b,a,b"}
    settings, plain = Settings.from_environment(GOOD | told), Settings.from_environment(GOOD)

    assert settings.driver == STANDARD.model_copy(update={"priority_class_name": "batch"})
    assert settings.labels_to_copy == ("b", "a")
    assert (plain.driver, plain.labels_to_copy) == (STANDARD, ())


def test_every_limit_is_a_setting() -> None:
    """A constant of the rules is set by its own name."""
    settings = Settings.from_environment(GOOD | {"GPUJOB_BOOT_CAP_SECONDS": "60"})

    assert settings.limits.boot_cap_seconds == 60.0


def test_the_token_is_shown_by_nothing() -> None:
    """Not by the settings, not by what they are made of, and not by the token itself."""
    settings = Settings.from_environment(GOOD)
    token = settings.vast_api_key

    for text in (
        f"{settings} {settings!r} {vars(settings)} {asdict(settings)}",
        f"{token} {token!r}",
    ):
        assert "token-1234" not in text
    assert token.get_secret_value() == "token-1234"


@pytest.mark.parametrize("words", [None, "", "no certificate"])
def test_a_file_without_authorities_stops_the_start(tmp_path: Path, words: str | None) -> None:
    """Else the provider would be trusted less, or more, than somebody meant."""
    file = tmp_path / "ca.crt"
    if words is not None:
        file.write_text(words)
    settings = Settings.from_environment(GOOD | {"GPUJOB_PROVIDER_AUTHORITIES_FILE": str(file)})

    with pytest.raises(ConfigError, match=r"GPUJOB_PROVIDER_AUTHORITIES_FILE.*ca\.crt"):
        settings.egress()


def test_the_password_of_the_proxy_is_shown_by_nothing() -> None:
    """Not by the settings, and not by the way that they make."""
    proxy = {"URL": "http://proxy.example:3128", "USERNAME": "robot", "PASSWORD": "canary-9876"}
    given = {f"GPUJOB_PROVIDER_PROXY_{name}": text for name, text in proxy.items()}
    settings = Settings.from_environment(GOOD | given)
    way = settings.egress()

    assert way.proxy is not None
    assert way.proxy.password == "canary-9876"
    assert "canary-9876" not in f"{settings} {settings!r} {vars(settings)} {way} {way!r}"


def test_the_names_of_clients_are_host_names() -> None:
    """They go into the server's certificate."""
    told = GOOD | {"GPUJOB_CLIENTS_NAMES": "jobs.example.com,jobs"}

    assert Settings.from_environment(told).clients_names == ("jobs.example.com", "jobs")
