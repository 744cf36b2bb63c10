"""The settings of controller and server, from environment variables.

`GPUJOB_<NAME>` for each field below, and for the controller for each constant of `Limits`;
`VAST_API_KEY` for the account's token, which exists nowhere else.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from gpujob.core.api_tokens import ADVICE, weakness
from gpujob.core.limits import Limits

PREFIX = "GPUJOB_"
TOKEN_VARIABLE = "VAST_API_KEY"  # noqa: S105 - the name of the variable


class ConfigError(ValueError):
    """A setting is missing or wrong; says which."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that the controller is told at its start."""

    vast_api_key: SecretStr
    driver_image: str
    transport_url: str
    """Where driver pods reach this controller."""
    namespace: str
    """Where this controller runs."""
    pod_name: str
    pod_ip: str
    pod_uid: str = ""
    """Lets events about the controller show with its pod."""
    name: str = "gpujob"
    """Of the Service that drivers are told, and of the leader lock."""
    webhook: str = ""
    """Name of the webhook's configuration whose certificates are made here; empty = none."""
    driver_image_pull_policy: str = "IfNotPresent"
    provider_url: str = "https://console.vast.ai"
    transport_port: int = 8080
    probes_port: int = 8081
    listen_host: str = "0.0.0.0"  # noqa: S104 - a pod's own address is not known before
    log_level: str = "INFO"
    workers: int = 8
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Returns the settings; raises ConfigError naming the variable that is wrong."""
        given = _given(environment)
        limits = {
            limit.name: _converted(limit.type, *given.pop(limit.name))
            for limit in fields(Limits)
            if limit.name in given
        }
        own = _own(cls, given, besides=("vast_api_key", "limits"))
        for required in ("driver_image", "transport_url", "namespace", "pod_name", "pod_ip"):
            if required not in own:
                raise ConfigError(f"{PREFIX}{required.upper()} must be set")
        token = environment.get(TOKEN_VARIABLE, "")
        if not token or token != token.strip() or not token.isprintable():
            raise ConfigError(
                f"{TOKEN_VARIABLE} must hold the account's API key, without white space"
            )
        for url in ("provider_url", "transport_url"):
            if not _is_address(own.get(url, "https://x")):
                raise ConfigError(f"{PREFIX}{url.upper()} must be an http or https address")
        try:
            ipaddress.ip_address(str(own["pod_ip"]))
        except ValueError:
            raise ConfigError(f"{PREFIX}POD_IP must be an IP address") from None
        settings = cls(vast_api_key=SecretStr(token), limits=Limits(**limits), **own)
        _check_lock(settings.limits)
        return settings


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """All that the server is told at its start."""

    namespace: str
    """Where it runs, and where its certificates are."""
    name: str = "gpujob"
    """Of the release."""
    admission_port: int = 8443
    probes_port: int = 8081
    listen_host: str = "0.0.0.0"  # noqa: S104 - a pod's own address is not known before
    log_level: str = "INFO"
    look_seconds: float = 5.0
    """Between two looks at the certificates, at tokens, and at what is known of the market."""
    api_port: int = 0
    """Of the HTTP API; 0 = there is none."""
    transport_url: str = ""
    """Where the controller is asked what a job would cost; needed for the API."""
    token_file: str = "/var/run/secrets/gpujob.dev/transport/token"  # noqa: S105 - a path
    """Of the token for that."""
    api_mode: str = "production"
    """`development` shows callers why a request failed."""
    api_bootstrap_token: SecretStr = field(default_factory=lambda: SecretStr(""))
    """May do everything, until the Secret that it comes from is gone; empty = there is none."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "ServerSettings":
        """Returns the settings; raises ConfigError naming the variable that is wrong."""
        own = _own(cls, _given(environment))
        if not own.get("namespace"):
            raise ConfigError(f"{PREFIX}NAMESPACE must be set")
        if own.get("api_mode", "production") not in ("production", "development"):
            raise ConfigError(f"{PREFIX}API_MODE must be production or development")
        if own.get("api_port") and not _is_address(own.get("transport_url", "")):
            raise ConfigError(f"{PREFIX}TRANSPORT_URL must be an http or https address")
        token = own.get("api_bootstrap_token", SecretStr(""))
        if token and (why := weakness(token.get_secret_value())):
            raise ConfigError(f"{PREFIX}API_BOOTSTRAP_TOKEN is too weak: {why}; {ADVICE}")
        return cls(**own)


def _given(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Returns our variables, with their full names, by the setting's."""
    return {
        name.removeprefix(PREFIX).lower(): (name, text)
        for name, text in environment.items()
        if name.startswith(PREFIX)
    }


def _own(
    kind: type[Any], given: dict[str, tuple[str, str]], besides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Takes the settings of a class out of what is given; raises ConfigError if any is left."""
    own = {
        setting.name: _converted(setting.type, *given.pop(setting.name))
        for setting in fields(kind)
        if setting.name in given and setting.name not in besides
    }
    if given:
        unknown = ", ".join(sorted(name for name, _ in given.values()))
        raise ConfigError(f"unknown setting: {unknown}; see Settings in helm/gpujob/README.md")
    return own


def _is_address(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query


def _check_lock(limits: Limits) -> None:
    """Raises ConfigError unless a leader stops before another one can lead, and can rent."""
    duration = limits.lock_duration_seconds
    for name in ("lock_renew_deadline_seconds", "rent_not_after_seconds"):
        if getattr(limits, name) + limits.lock_retry_seconds > duration:
            raise ConfigError(
                f"{PREFIX}{name.upper()} and {PREFIX}LOCK_RETRY_SECONDS together must be at most "
                f"{PREFIX}LOCK_DURATION_SECONDS, which is {duration}"
            )


def _converted(kind: Any, name: str, text: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        raise ConfigError(f"{name} must be of type {kind.__name__}, not {text!r}") from None
    if isinstance(value, int | float) and not 0 <= value < 1e9:
        raise ConfigError(f"{name} must be at least 0 and finite, not {text!r}")
    return value
