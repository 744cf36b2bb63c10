"""What a driver's environment must hold."""

import pytest

from gpujob.driver.settings import DriverSettings, DriverSettingsError

NEEDED = ("TRANSPORT_URL", "TOKEN_FILE", "SSH_KEY_FILE", "NODE_UID", "STATE_DIR", "NODE_NAME")


@pytest.mark.parametrize("url", ["gpujob.svc:8080", "ftp://gpujob.svc", "http://", "http://x/?y"])
def test_an_address_that_cannot_be_asked_is_named(url: str) -> None:
    """The driver ends with an error, instead of reporting to nobody."""
    variables = {f"GPUJOB_{name}": "http://x" for name in NEEDED}
    DriverSettings.from_environment(variables)
    with pytest.raises(DriverSettingsError, match="GPUJOB_TRANSPORT_URL must be"):
        DriverSettings.from_environment(variables | {"GPUJOB_TRANSPORT_URL": url})
