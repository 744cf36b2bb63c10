"""The driver's settings, from its pod's environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr, ValidationError

from gpujob.adapters.environment import is_address
from gpujob.adapters.transport import UntrustedAuthorities, trust_in
from gpujob.api.data import VARIABLE, DataPlan
from gpujob.api.transport import WORKLOAD_ENV_PREFIX


class DriverSettingsError(ValueError):
    """A variable is missing or wrong; says which."""


@dataclass(frozen=True, kw_only=True)
class DriverSettings:
    """All that a driver knows at its start."""

    transport_url: str
    authorities: str
    """The certificate authorities by which the controller was known when the pod was made; PEM."""
    token_file: Path
    ssh_key_file: Path
    node_uid: str
    state_dir: Path
    termination_log: Path
    sync_seconds: float
    workload_environment: Mapping[str, SecretStr]
    node_name: str
    number: int
    """Of this driver's pod: its successors have higher ones."""
    image: str
    pull_secret: Path | None
    """The folder with the job's pull secret; None = it has none."""
    data: DataPlan | None
    ports: Mapping[int, int]
    """The machine's port for each of the driver's ports."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "DriverSettings":
        """Returns the settings; raises DriverSettingsError."""

        def needed(name: str) -> str:
            value = environment.get(name, "")
            if not value:
                raise DriverSettingsError(f"{name} must be set")
            return value

        url = needed("GPUJOB_TRANSPORT_URL").rstrip("/")
        if not is_address(url, "https"):
            raise DriverSettingsError("GPUJOB_TRANSPORT_URL must be an https address")
        authorities = needed("GPUJOB_TRANSPORT_AUTHORITIES")
        try:
            trust_in(authorities)
        except UntrustedAuthorities as error:
            raise DriverSettingsError(f"GPUJOB_TRANSPORT_AUTHORITIES: {error}") from None
        try:
            sync_seconds = float(environment.get("GPUJOB_SYNC_SECONDS", "2"))
        except ValueError:
            raise DriverSettingsError("GPUJOB_SYNC_SECONDS must be a number") from None
        number = environment.get("GPUJOB_DRIVER_NUMBER", "1")
        if not number.isascii() or not number.isdecimal():
            raise DriverSettingsError("GPUJOB_DRIVER_NUMBER must be a whole number")
        if not 0.05 <= sync_seconds <= 60:
            raise DriverSettingsError("GPUJOB_SYNC_SECONDS must be between 0.05 and 60")
        return cls(
            transport_url=url,
            authorities=authorities,
            token_file=Path(needed("GPUJOB_TOKEN_FILE")),
            ssh_key_file=Path(needed("GPUJOB_SSH_KEY_FILE")),
            node_uid=needed("GPUJOB_NODE_UID"),
            state_dir=Path(needed("GPUJOB_STATE_DIR")),
            termination_log=Path(environment.get("GPUJOB_TERMINATION_LOG", "/dev/termination-log")),
            sync_seconds=sync_seconds,
            node_name=needed("GPUJOB_NODE_NAME"),
            number=int(number),
            image=environment.get("GPUJOB_IMAGE", ""),
            pull_secret=Path(folder) if (folder := environment.get("GPUJOB_PULL_SECRET")) else None,
            data=_data_plan(environment.get(VARIABLE)),
            ports=_ports(environment.get("GPUJOB_PORTS", "")),
            workload_environment={
                name.removeprefix(WORKLOAD_ENV_PREFIX): SecretStr(value)
                for name, value in environment.items()
                if name.startswith(WORKLOAD_ENV_PREFIX)
            },
        )


def _ports(text: str) -> dict[int, int]:
    try:
        pairs = [one.split(":") for one in text.split(",") if one]
        return {int(listened): int(port) for listened, port in pairs}
    except ValueError:
        raise DriverSettingsError(
            "GPUJOB_PORTS must be pairs of numbers, as 20080:80,20081:9090"
        ) from None


def _data_plan(text: str | None) -> DataPlan | None:
    try:
        return DataPlan.model_validate_json(text) if text else None
    except ValidationError as error:
        raise DriverSettingsError(f"{VARIABLE} is not understood: {error}") from None
