"""What a driver's environment must hold."""

import pytest
from tests.authority import driver_variables

from gpujob.driver.settings import DriverSettings, DriverSettingsError


@pytest.mark.parametrize(
    "url", ["gpujob.svc:8080", "http://gpujob.svc", "https://", "https://x/?y"]
)
def test_an_address_that_cannot_be_asked_is_named(url: str) -> None:
    """The driver ends with an error, instead of reporting to nobody."""
    variables = driver_variables()
    DriverSettings.from_environment(variables)
    with pytest.raises(DriverSettingsError, match="GPUJOB_TRANSPORT_URL must be"):
        DriverSettings.from_environment(variables | {"GPUJOB_TRANSPORT_URL": url})


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n", "é"])
def test_without_authorities_nobody_is_reported_to(text: str) -> None:
    """The driver ends with an error, instead of believing whoever answers."""
    with pytest.raises(DriverSettingsError, match="GPUJOB_TRANSPORT_AUTHORITIES"):
        DriverSettings.from_environment(driver_variables() | {"GPUJOB_TRANSPORT_AUTHORITIES": text})
