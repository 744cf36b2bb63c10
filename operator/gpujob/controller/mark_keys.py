"""Makes the keys with which the HTTP API marks jobs (`core/mark_keys.py`)."""

import asyncio
import secrets

import structlog
from pydantic import SecretBytes

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ClusterError, ObjectGone
from gpujob.adapters.kube import KubeClient
from gpujob.controller.certificates import owned_metadata
from gpujob.controller.settings import Settings
from gpujob.core.mark_keys import KEY_BYTES, data_of, keys_in, mark_keys_secret, with_new_key

LOOK_SECONDS = 10.0

log = structlog.get_logger("gpujob.controller")


async def keep_mark_keys(kube: KubeClient, clock: Clock, settings: Settings) -> None:
    """Makes the first key, and later ones when they are due; what fails is tried again."""
    while True:
        try:
            await keep_once(kube, clock, settings)
        except ObjectGone as error:
            log.warning("mark_keys_not_kept", problem=f"the Service is missing: {error}")
        except ClusterError as error:
            log.warning("mark_keys_not_kept", problem=str(error))
        await asyncio.sleep(LOOK_SECONDS)


async def keep_once(kube: KubeClient, clock: Clock, settings: Settings) -> None:
    """Stores a new key if one is due; raises ClusterError."""
    name = mark_keys_secret(settings.name)
    stored = await kube.find("Secret", settings.namespace, name)
    made = SecretBytes(secrets.token_bytes(KEY_BYTES))
    keys = with_new_key(keys_in((stored or {}).get("data") or {}), made, clock.now())
    if keys is None:
        return
    if stored is not None:
        await kube.replace("Secret", stored | {"data": data_of(keys)})
    else:
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "gpujob.dev/mark-keys",
            "metadata": await owned_metadata(kube, settings.namespace, name, settings.name),
            "data": data_of(keys),
        }
        await kube.create("Secret", settings.namespace, body)
    log.info("mark_key_made", secret=name)
