"""The settings of the server, from environment variables: `GPUJOB_<NAME>` for each field below."""

import os
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
from gpujob.core.api_tokens import token_fault


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
        token = own.get("api_bootstrap_token", SecretStr(""))
        if token and (why := token_fault(token.get_secret_value())):
            raise ConfigError(
                f"{VARIABLE_PREFIX}API_BOOTSTRAP_TOKEN was not made by gpujob token: {why}. "
                "Make one with: python3 -m gpujob token NAME --bootstrap"
            )
        return cls(**own)
