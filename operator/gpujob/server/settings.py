"""The settings of the server, from environment variables: `GPUJOB_<NAME>` for each field below."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from gpujob.adapters.environment import (
    VARIABLE_PREFIX,
    ConfigError,
    is_address,
    namespaces_in,
    settings_in,
    taken,
)
from gpujob.adapters.pki import PkiError, check_authorities
from gpujob.core.api_tokens import token_fault

COMMON_NAME = "[-A-Za-z0-9_.:@/]{1,64}"
"""As the chart's schema has it."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The settings that the server is started with."""

    namespace: str
    """The namespace of the release, where its Secrets are."""
    name: str = "gpujob"
    """The name of the release."""
    job_namespaces: str = ""
    """Namespaces whose jobs the HTTP API serves, with commas between them; empty: all."""
    service_account: str = "gpujob-server"
    """The account that this program runs as: it alone may create jobs with the HTTP API's marks."""
    admission_port: int = 8443
    admission_client_ca: str = ""
    """Authorities of the certificates by which the API server is known, as PEM; empty: whoever can
    connect may ask."""
    admission_client_names: str = ""
    """Common names that such a certificate may have, with commas between them."""
    probes_port: int = 8081
    listen_host: str = ""
    """Address to listen on; empty: all addresses of the pod, of IPv4 and of IPv6."""
    log_level: str = "INFO"
    look_seconds: float = 5.0
    """How often certificates, tokens and market notes are read."""
    api_port: int = 0
    """The port of the HTTP API; 0 disables it."""
    transport_url: str = ""
    """The controller's URL, for estimates; required if the HTTP API is served."""
    token_file: str = "/var/run/secrets/gpujob.dev/transport/token"  # noqa: S105 - a path
    """The file with the token that the controller accepts."""
    authorities_file: str = "/etc/gpujob/transport/ca.crt"
    """The file with the certificate authorities by which the controller is known."""
    api_mode: str = "production"
    """`development` adds the cause to error answers; `production` does not."""
    api_bootstrap_token: SecretStr = field(default_factory=lambda: SecretStr(""))
    """A token that may do everything until its Secret is deleted; empty if there is none."""
    api_cluster_tokens: bool = False
    """Whether tokens for the API server itself are accepted, besides those for the HTTP API."""

    @property
    def served(self) -> tuple[str, ...]:
        """The namespaces whose jobs are served; empty: all."""
        return tuple(self.job_namespaces.split(",")) if self.job_namespaces else ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "ServerSettings":
        """Returns the settings; raises ConfigError naming the variable that is wrong."""
        own = taken(cls, settings_in(environment))
        if not own.get("namespace"):
            raise ConfigError(f"{VARIABLE_PREFIX}NAMESPACE must be set")
        namespaces_in(
            f"{VARIABLE_PREFIX}JOB_NAMESPACES", own.get("job_namespaces", ""), own["namespace"]
        )
        if own.get("api_mode", "production") not in ("production", "development"):
            raise ConfigError(f"{VARIABLE_PREFIX}API_MODE must be production or development")
        if own.get("api_port") and not is_address(own.get("transport_url", ""), "https"):
            raise ConfigError(
                f"{VARIABLE_PREFIX}TRANSPORT_URL must be an https URL without a query"
            )
        _check_clients(own.get("admission_client_ca", ""), own.get("admission_client_names", ""))
        token = own.get("api_bootstrap_token", SecretStr(""))
        if token and (why := token_fault(token.get_secret_value())):
            raise ConfigError(
                f"{VARIABLE_PREFIX}API_BOOTSTRAP_TOKEN was not made by gpujob token: {why}. "
                "Make one with: python3 -m gpujob token NAME --bootstrap"
            )
        return cls(**own)


def _check_clients(authorities: str, names: str) -> None:
    """Raises ConfigError; a private key that was pasted is in no message."""
    authority, callers = (f"{VARIABLE_PREFIX}ADMISSION_CLIENT_{part}" for part in ("CA", "NAMES"))
    if bool(authorities) != bool(names):
        raise ConfigError(
            f"{authority} and {callers} must be set together: an authority has signed the "
            "certificates of many, and a name alone proves nothing"
        )
    if not authorities:
        return
    try:
        check_authorities(authorities)
    except PkiError as error:
        raise ConfigError(f"{authority} must be the authority's certificate: {error}") from None
    if not all(re.fullmatch(COMMON_NAME, name) for name in names.split(",")):
        raise ConfigError(f"{callers} must be common names with commas between them: {names!r}")
