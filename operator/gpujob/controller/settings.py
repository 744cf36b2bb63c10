"""The settings of the controller, from environment variables.

Each field below and each field of `Limits` is read from `GPUJOB_<NAME>`. The account's API key is
read from `VAST_API_KEY`; no other program has it.
"""

import ipaddress
import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from gpujob.adapters.egress import Egress, egress
from gpujob.adapters.environment import (
    VARIABLE_PREFIX,
    ConfigError,
    converted,
    is_address,
    namespaces_in,
    settings_in,
    taken,
)
from gpujob.adapters.metrics import label_name
from gpujob.core.identity import FORM as IDENTITY
from gpujob.core.limits import Limits
from gpujob.core.machine.driver_defaults import STANDARD, DriverDefaults
from gpujob.core.spec_faults import key_faults, pod_faults, shape_faults

TOKEN_VARIABLE = "VAST_API_KEY"  # noqa: S105 - the name of the variable
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that the controller is started with."""

    vast_api_key: SecretStr
    driver_image: str
    transport_url: str
    """URL at which drivers and the server reach the leader; its certificate names this host."""
    namespace: str
    """Namespace that this controller runs in."""
    pod_name: str
    pod_ips: str
    """Addresses of the pod, with commas between them: one, or in a dual-stack cluster two."""
    pod_uid: str = ""
    """UID of the pod, by which `kubectl describe pod` finds the events about the controller."""
    name: str = "gpujob"
    """Name of the transport Service and of the leader Lease."""
    key_secret: str = ""
    """Secret in this namespace that the API key comes from: it is read again once that changes."""
    webhook: str = ""
    """ValidatingWebhookConfiguration whose certificates are made here; empty if there is none."""
    clients_names: tuple[str, ...] = ()
    """Names by which clients reach the HTTP API, besides its Service's; with commas between."""
    keeps_mark_keys: bool = False
    """Whether keys are made for the HTTP API's marks: only if it is served."""
    job_namespaces: str = ""
    """Namespaces of the jobs that are served, with commas between them; empty: all."""
    cluster_rights: bool = True
    """Whether the service account has the rights on the cluster that the chart gives: to review
    tokens, and to find other releases. Without them, `job_namespaces` is required."""
    identity: str = ""
    """First part of the marks on machines; empty: what it was before, or one of its own."""
    driver_image_pull_policy: str = "IfNotPresent"
    driver: DriverDefaults = STANDARD
    """What all driver pods have; as JSON."""
    labels_to_copy: tuple[str, ...] = ()
    """Keys of the labels that nodes, pods, Services and metrics get from their job; with commas
    between them."""
    kueue: bool = False
    """Whether jobs with Kueue's label for a queue wait until it admits them."""
    requires_budget: bool = False
    """Whether nothing is rented for a job that no GpuBudget covers."""
    provider_url: str = "https://console.vast.ai"
    provider_proxy_url: str = ""
    """Proxy for the provider, and for the storage that it names; empty: none."""
    provider_proxy_username: str = ""
    provider_proxy_password: SecretStr = field(default_factory=lambda: SecretStr(""))
    provider_authorities_file: str = ""
    """File with certificate authorities that are also trusted there, as PEM; empty: none."""
    transport_port: int = 8080
    probes_port: int = 8081
    listen_host: str = ""
    """Address to listen on; empty: all addresses of the pod, of IPv4 and of IPv6."""
    log_level: str = "INFO"
    workers: int = 32
    """Passes at once. They mostly wait for the API server: with eight of them and 10 ms for each of
    its answers, no more than 30 jobs a second got their driver pods."""
    limits: Limits = field(default_factory=Limits)

    @property
    def served(self) -> tuple[str, ...]:
        """The namespaces of the jobs that are served; empty: all."""
        return tuple(self.job_namespaces.split(",")) if self.job_namespaces else ()

    def egress(self) -> Egress:
        """Returns the way to the provider; raises ConfigError."""
        try:
            return egress(
                self.provider_proxy_url,
                self.provider_proxy_username,
                self.provider_proxy_password,
                self.provider_authorities_file,
            )
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{VARIABLE_PREFIX}PROVIDER_AUTHORITIES_FILE must name a file of certificates in "
                f"PEM: {self.provider_authorities_file}: {error.strerror or 'none is in it'}"
            ) from None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Returns the settings; raises ConfigError naming the variable that is wrong."""
        given = settings_in(environment)
        limits = {
            limit.name: converted(limit.type, *given.pop(limit.name))
            for limit in fields(Limits)
            if limit.name in given
        }
        driver = _driver(*given.pop("driver")) if "driver" in given else STANDARD
        keys = _keys(*given.pop("labels_to_copy")) if "labels_to_copy" in given else ()
        names = _host_names(*given.pop("clients_names")) if "clients_names" in given else ()
        parsed = ("vast_api_key", "limits", "driver", "labels_to_copy", "clients_names")
        own = taken(cls, given, besides=parsed)
        for required in ("driver_image", "transport_url", "namespace", "pod_name", "pod_ips"):
            if required not in own:
                raise ConfigError(f"{VARIABLE_PREFIX}{required.upper()} must be set")
        token = environment.get(TOKEN_VARIABLE, "")
        if not token or token != token.strip() or not token.isprintable():
            raise ConfigError(
                f"{TOKEN_VARIABLE} must hold the account's API key, without white space"
            )
        if not is_address(own.get("provider_url", "https://x")):
            raise ConfigError(
                f"{VARIABLE_PREFIX}PROVIDER_URL must be an http or https URL without a query"
            )
        _check_proxy(own)
        if not is_address(own["transport_url"], "https"):
            raise ConfigError(
                f"{VARIABLE_PREFIX}TRANSPORT_URL must be an https URL without a query"
            )
        try:
            addresses_in(own["pod_ips"])
        except ValueError:
            raise ConfigError(
                f"{VARIABLE_PREFIX}POD_IPS must be IP addresses with commas between them, at most "
                "one of each family"
            ) from None
        served = namespaces_in(
            f"{VARIABLE_PREFIX}JOB_NAMESPACES", own.get("job_namespaces", ""), own["namespace"]
        )
        if not served and own.get("cluster_rights") is False:
            raise ConfigError(
                f"{VARIABLE_PREFIX}JOB_NAMESPACES must name the namespaces of the jobs, because "
                f"{VARIABLE_PREFIX}CLUSTER_RIGHTS is false"
            )
        if (identity := own.get("identity")) and not IDENTITY.fullmatch(identity):
            raise ConfigError(
                f"{VARIABLE_PREFIX}IDENTITY must be at most 63 letters, digits, '-', '.' and '_', "
                "such as a UUID"
            )
        settings = cls(
            vast_api_key=SecretStr(token),
            limits=Limits(**limits),
            driver=driver,
            labels_to_copy=keys,
            clients_names=names,
            **own,
        )
        _check_lock(settings.limits)
        return settings


def _driver(name: str, text: str) -> DriverDefaults:
    """Returns what all driver pods have; raises ConfigError."""
    try:
        # In a chart's values, half a core may be a number.
        driver = DriverDefaults.model_validate(json.loads(text, parse_float=str))
        faults = tuple(pod_faults(driver, "driver"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name} must be JSON: {error}") from None
    except ValidationError as error:
        faults = shape_faults(error)
    if faults:
        raise ConfigError(f"{name}: {'; '.join(str(fault) for fault in faults)}")
    return driver


def _keys(name: str, text: str) -> tuple[str, ...]:
    """Returns keys of labels; raises ConfigError."""
    keys = tuple(key for key in text.split(",") if key)
    if faults := tuple(key_faults(keys, name)):
        raise ConfigError("; ".join(str(fault) for fault in faults))
    by_name: dict[str, str] = {}
    for key in keys:
        if (other := by_name.setdefault(label_name(key), key)) != key:
            words = f"{other} and {key} would be one label in metrics; keep one of them"
            raise ConfigError(f"{name}: {words}")
    return tuple(dict.fromkeys(keys))


def _host_names(name: str, text: str) -> tuple[str, ...]:
    """Returns DNS names in small letters; raises ConfigError."""
    names = tuple(one for one in text.split(",") if one)
    if wrong := [one for one in names if not _HOST_NAME.fullmatch(one)]:
        raise ConfigError(
            f"{name} must hold DNS names in small letters, with commas between them: {wrong[0]!r} "
            "is none"
        )
    return names


def _check_proxy(own: Mapping[str, Any]) -> None:
    """Raises ConfigError, without the address: somebody may have put a password into it."""
    url = str(own.get("provider_proxy_url", ""))
    if not url:
        return
    name = f"{VARIABLE_PREFIX}PROVIDER_PROXY_URL"
    if not is_address(url) or urlsplit(url).path not in ("", "/"):
        raise ConfigError(f"{name} must be an http or https URL of a host and a port alone")
    if "@" in url:
        raise ConfigError(
            f"{name} must name no user: set {VARIABLE_PREFIX}PROVIDER_PROXY_USERNAME and "
            f"{VARIABLE_PREFIX}PROVIDER_PROXY_PASSWORD"
        )
    if not is_address(own.get("provider_url", "https://x"), "https"):
        raise ConfigError(
            f"{name} requires a {VARIABLE_PREFIX}PROVIDER_URL of https: else the proxy could read "
            "the account's key, and could repeat a rent request"
        )


def addresses_in(text: str) -> dict[int, str]:
    """Returns the pod's address of each family, by 4 or 6; raises ValueError."""
    found: dict[int, str] = {}
    for part in text.split(","):
        found[ipaddress.ip_address(part).version] = part
    if len(found) != len(text.split(",")):
        raise ValueError("two addresses of one family")
    return found


def _check_lock(limits: Limits) -> None:
    """Raises ConfigError unless a leader stops, and has sent its rent, before another can lead."""
    duration = limits.lock_duration_seconds
    for name in ("lock_renew_deadline_seconds", "rent_not_after_seconds"):
        if getattr(limits, name) + limits.lock_retry_seconds > duration:
            raise ConfigError(
                f"{VARIABLE_PREFIX}{name.upper()} plus {VARIABLE_PREFIX}LOCK_RETRY_SECONDS must be "
                f"at most {VARIABLE_PREFIX}LOCK_DURATION_SECONDS, which is {duration:g}"
            )
