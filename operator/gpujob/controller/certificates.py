"""Makes and rotates the webhook's certificates, and keeps the API server's trust in them current.

The certificates are in a Secret that every replica of the server reads. The authorities that signed
them are in `caBundle` of the webhook configuration. Only the leader writes these two objects.
"""

import asyncio
import base64
from dataclasses import replace

import structlog
from pydantic import SecretStr

from gpujob.adapters import pki
from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ClusterError, ObjectGone
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.meta import LABEL_MANAGED_BY, MANAGER
from gpujob.controller.settings import Settings
from gpujob.core.certificates import Certificate, Held, Rotation, due, secret_name, used_next

CONFIGURATION = "ValidatingWebhookConfiguration"
LOOK_SECONDS = 10.0
"""How often the Secret is checked, unless the overlap is so short that it needs more checks."""
LOOKS_PER_OVERLAP = 4

log = structlog.get_logger("gpujob.certificates")


def server_names(settings: Settings) -> frozenset[str]:
    """Returns the DNS names by which the API server reaches the Service of the server."""
    service = f"{settings.name}-server.{settings.namespace}"
    return frozenset({f"{service}.svc", f"{service}.svc.cluster.local"})


async def keep_for_ever(kube: KubeClient, clock: Clock, settings: Settings) -> None:
    """Keeps the certificates current; what fails is tried again."""
    overlap = settings.limits.certificate_overlap_seconds
    while True:
        try:
            await keep_once(kube, clock, settings)
        except ObjectGone as error:
            # Either the configuration or the Service of the server is missing.
            log.warning("webhook_missing", name=settings.webhook, problem=str(error))
        except ClusterError as error:
            log.warning("certificates_not_updated", problem=str(error))
        except Exception:
            # Without certificates no new job is stored, but jobs that run still need the leader.
            log.exception("certificates_crashed")
        await asyncio.sleep(min(LOOK_SECONDS, overlap / LOOKS_PER_OVERLAP))


async def keep_once(kube: KubeClient, clock: Clock, settings: Settings) -> None:
    """Takes the step that is due, and makes the API server trust what is stored.

    Trust comes before use: the next certificate is used by a later pass, when the API server has
    trusted it for a while. Raises ClusterError.
    """
    limits, names = settings.limits, server_names(settings)
    configuration = await kube.get(CONFIGURATION, "", settings.webhook)
    stored = await kube.find("Secret", settings.namespace, secret_name(settings.name))
    held = _held(stored)
    step = due(held, names=names, trusted=_trusted(configuration), now=clock.now(), limits=limits)
    if step is not Rotation.NOTHING:
        life = limits.certificate_life_seconds
        match step:
            case Rotation.MAKE:
                made = pki.make(names, now=clock.now(), life_seconds=life)
                former = held.used.authority if held.used else ""
                held = Held(used=made, former_authority=former)
            case Rotation.MAKE_NEXT:
                made = pki.make(names, now=clock.now(), life_seconds=life)
                held = replace(held, coming=made)
            case Rotation.USE_NEXT:
                held = used_next(held)
        await _store(kube, settings, stored, held)
        log.info("certificate_rotated", step=step.name.lower(), used=repr(held.used))
    if _trusted(configuration) != held.trusted:
        bundle = base64.b64encode(held.trusted.encode()).decode()
        webhooks = [
            one | {"clientConfig": one["clientConfig"] | {"caBundle": bundle}}
            for one in configuration.get("webhooks") or []
        ]
        await kube.replace(CONFIGURATION, configuration | {"webhooks": webhooks})


def _trusted(configuration: Body) -> str:
    """Returns the authorities that all webhooks of a configuration trust; empty if they differ."""
    webhooks = configuration.get("webhooks") or []
    bundles = {one["clientConfig"].get("caBundle", "") for one in webhooks}
    return base64.b64decode(bundles.pop()).decode(errors="replace") if len(bundles) == 1 else ""


def _held(stored: Body | None) -> Held:
    """Reads the Secret. A certificate that cannot be read counts as missing."""
    texts = {
        key: base64.b64decode(value).decode(errors="replace")
        for key, value in ((stored or {}).get("data") or {}).items()
    }
    return Held(
        used=_certificate(texts, "ca.crt", "tls.crt", "tls.key"),
        coming=_certificate(texts, "next-ca.crt", "next.crt", "next.key"),
        former_authority=texts.get("former-ca.crt", ""),
    )


def _certificate(texts: dict[str, str], authority: str, chain: str, key: str) -> Certificate | None:
    if not texts.get(chain):
        return None
    try:
        return pki.read(
            authority=texts.get(authority, ""),
            chain=texts[chain],
            key=SecretStr(texts.get(key, "")),
        )
    except pki.PkiError as error:
        log.warning("certificate_unreadable", entry=chain, problem=str(error))
        return None


async def _store(kube: KubeClient, settings: Settings, stored: Body | None, held: Held) -> None:
    assert held.used is not None
    texts = {
        "ca.crt": held.used.authority,
        "tls.crt": held.used.chain,
        "tls.key": held.used.key.get_secret_value(),
        "former-ca.crt": held.former_authority,
    }
    if held.coming is not None:
        texts |= {
            "next-ca.crt": held.coming.authority,
            "next.crt": held.coming.chain,
            "next.key": held.coming.key.get_secret_value(),
        }
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    if stored is not None:
        await kube.replace("Secret", stored | {"data": data})
        return
    service = await kube.get("Service", settings.namespace, f"{settings.name}-server")
    owner = {
        "apiVersion": "v1",
        "kind": "Service",
        "name": service["metadata"]["name"],
        "uid": service["metadata"]["uid"],
    }
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {
            "name": secret_name(settings.name),
            "namespace": settings.namespace,
            "labels": {LABEL_MANAGED_BY: MANAGER},
            # Kubernetes deletes the Secret when the release is uninstalled.
            "ownerReferences": [owner],
        },
        "data": data,
    }
    await kube.create("Secret", settings.namespace, body)
