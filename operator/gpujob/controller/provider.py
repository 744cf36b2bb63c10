"""Makes the client of the provider as the settings say, for each thread that needs its own."""

from gpujob.adapters.clock import Clock
from gpujob.adapters.door import Door
from gpujob.adapters.vast import VastClient
from gpujob.controller.settings import Settings


def provider_client(settings: Settings, clock: Clock, door: Door) -> VastClient:
    """Returns a client; raises ConfigError. The sweep must not go another way than the rest."""
    url, key = settings.provider_url, settings.vast_api_key
    return VastClient(url, key, clock, door, settings.egress())
