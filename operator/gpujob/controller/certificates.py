"""Makes and rotates the webhook's and the transport's certificates, and makes callers trust them.

Each listener has a Secret of its own with its certificates. The authorities that signed them are
where its callers look: in `caBundle` of the webhook configuration, and for the transport in a
ConfigMap and in the assignments of drivers. Only the leader writes these objects.
"""

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import urlsplit

import structlog
from pydantic import SecretBytes, SecretStr

from gpujob.adapters import pki
from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ClusterError, ObjectGone
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.meta import LABEL_MANAGED_BY, MANAGER
from gpujob.controller.settings import Settings
from gpujob.core.certificates import (
    AUTHORITY_LIFE,
    Authority,
    Certificate,
    Held,
    Rotation,
    authority_secret_name,
    due,
    secret_name,
    transport_authorities_name,
    transport_secret_name,
    used_next,
)
from gpujob.web.tls import ShownCertificate

CONFIGURATION = "ValidatingWebhookConfiguration"
LOOK_SECONDS = 10.0
"""How often a Secret is checked, unless the overlap is so short that it needs more checks."""
LOOKS_PER_OVERLAP = 4
AUTHORITIES_KEY = "ca.crt"

log = structlog.get_logger("gpujob.certificates")


class Trust(Protocol):
    """Where the callers of a listener learn which authorities to trust, as PEM."""

    async def read(self) -> str:
        """Returns what they are told at present, empty if nothing; raises ClusterError."""
        ...

    async def publish(self, authorities: str) -> None:
        """Tells them; raises ClusterError."""
        ...


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Whose certificates are kept, and where."""

    secret: str
    authority_secret: str | None
    """Where the authority of all its certificates is; None = each has one of its own."""
    owner: str | None
    """The Service with which Kubernetes deletes the Secrets; None = they outlive the release."""
    names: frozenset[str]
    """DNS names and IP addresses by which callers reach it."""
    trust: Trust


def webhook_listener(kube: KubeClient, settings: Settings) -> Listener:
    """Returns the server's listener, which the API server calls, and clients of the HTTP API."""
    service = f"{settings.name}-server"
    names = (f"{service}.{settings.namespace}.svc{ending}" for ending in ("", ".cluster.local"))
    return Listener(
        secret=secret_name(settings.name),
        authority_secret=authority_secret_name(settings.name),
        owner=service,
        names=frozenset((*names, *settings.clients_names)),
        trust=_WebhookTrust(kube, settings.webhook),
    )


def transport_listener(kube: KubeClient, settings: Settings) -> Listener:
    """Returns this program's listener, which drivers and the server call by `transport_url`."""
    host = urlsplit(settings.transport_url).hostname or ""
    with suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return Listener(
        secret=transport_secret_name(settings.name),
        authority_secret=None,
        # Drivers outlive the release, and know the controller by this certificate only.
        owner=None,
        names=frozenset({host}),
        trust=_TransportTrust(kube, settings),
    )


class TransportTls:
    """The certificate that the transport shows, and the authorities that its callers trust."""

    def __init__(self) -> None:
        # Both ends are ours, so nothing older than the latest version has to be accepted.
        self._certificate = ShownCertificate(ssl.TLSVersion.TLSv1_3)
        self.context = self._certificate.context
        self.authorities = ""
        """As PEM; empty until there is a certificate."""
        self.is_loaded = asyncio.Event()

    def take(self, held: Held) -> None:
        """Shows the certificate that is in use to all new connections."""
        assert held.used is not None, "one is made before anything else"
        key = held.used.key.get_secret_value().encode()
        try:
            if self._certificate.show(held.used.chain.encode(), SecretBytes(key)):
                log.info("transport_certificate_loaded", used=repr(held.used))
        except ssl.SSLError as error:
            # Somebody has edited the Secret. What is shown stays valid long enough to notice it.
            log.error("transport_certificate_unusable", problem=repr(error))
            return
        self.authorities = held.trusted
        self.is_loaded.set()


async def keep_for_ever(
    kube: KubeClient,
    clock: Clock,
    settings: Settings,
    listener: Listener,
    on_held: Callable[[Held], None] = lambda _: None,
) -> None:
    """Keeps a listener's certificates current and tells about them; what fails is tried again."""
    overlap = settings.limits.certificate_overlap_seconds
    last = Held()
    while True:
        pause = min(LOOK_SECONDS, overlap / LOOKS_PER_OVERLAP)
        try:
            last = await keep_once(kube, clock, settings, listener, last)
            on_held(last)
        except ObjectGone as error:
            # Either the webhook configuration or the Service is missing.
            log.warning("listener_missing", secret=listener.secret, problem=str(error))
        except ClusterError as error:
            log.warning("certificates_not_updated", secret=listener.secret, problem=str(error))
            pause = min(pause, 1.0)
        except Exception:
            # Without certificates nothing new begins, but jobs that run still need the leader.
            log.exception("certificates_crashed", secret=listener.secret)
        await asyncio.sleep(pause)


async def keep_once(
    kube: KubeClient, clock: Clock, settings: Settings, listener: Listener, last: Held
) -> Held:
    """Takes the step that is due, makes callers trust what is stored, and returns it.

    What was held `last` is stored again if somebody has deleted or spoilt it: callers trust it, and
    would not trust another one. Trust comes before use: the next certificate is used by a later
    pass, when callers have trusted it for a while. Raises ClusterError.
    """
    trusted = await listener.trust.read()
    stored = await kube.find("Secret", settings.namespace, listener.secret)
    held = _held(stored)
    is_lost = held.used is None and last.used is not None
    held = last if is_lost else held
    limits = settings.limits
    step = due(held, names=listener.names, trusted=trusted, now=clock.now(), limits=limits)
    if is_lost or step is not Rotation.NOTHING:
        life, now = limits.certificate_life_seconds, clock.now()
        match step:
            case Rotation.MAKE:
                by = await _authority(kube, settings, listener, now)
                made = pki.make(listener.names, now=now, life_seconds=life, by=by)
                former = held.used.authority if held.used else ""
                held = Held(used=made, former_authority=former)
            case Rotation.MAKE_NEXT:
                by = await _authority(kube, settings, listener, now)
                made = pki.make(listener.names, now=now, life_seconds=life, by=by)
                held = replace(held, coming=made)
            case Rotation.USE_NEXT:
                held = used_next(held)
        await _store(kube, settings.namespace, listener, stored, held)
        log.info(
            "certificate_rotated",
            secret=listener.secret,
            step=step.name.lower(),
            used=repr(held.used),
        )
    if trusted != held.trusted:
        await listener.trust.publish(held.trusted)
    return held


class _WebhookTrust:
    """`caBundle` of all webhooks of a configuration."""

    def __init__(self, kube: KubeClient, name: str) -> None:
        self._kube, self._name = kube, name

    async def read(self) -> str:
        """Returns what all of them trust; empty if they differ."""
        configuration = await self._kube.get(CONFIGURATION, "", self._name)
        webhooks = configuration.get("webhooks") or []
        bundles = {one["clientConfig"].get("caBundle", "") for one in webhooks}
        if len(bundles) != 1:
            return ""
        return base64.b64decode(bundles.pop()).decode(errors="replace")

    async def publish(self, authorities: str) -> None:
        """Writes it into all of them."""
        configuration = await self._kube.get(CONFIGURATION, "", self._name)
        bundle = base64.b64encode(authorities.encode()).decode()
        webhooks = [
            one | {"clientConfig": one["clientConfig"] | {"caBundle": bundle}}
            for one in configuration.get("webhooks") or []
        ]
        await self._kube.replace(CONFIGURATION, configuration | {"webhooks": webhooks})


class _TransportTrust:
    """A ConfigMap beside the controller, which the server mounts; drivers are told directly."""

    def __init__(self, kube: KubeClient, settings: Settings) -> None:
        self._kube, self._namespace, self._service = kube, settings.namespace, settings.name
        self._name = transport_authorities_name(settings.name)

    async def read(self) -> str:
        """Returns what it holds."""
        stored = await self._kube.find("ConfigMap", self._namespace, self._name)
        return str(((stored or {}).get("data") or {}).get(AUTHORITIES_KEY, ""))

    async def publish(self, authorities: str) -> None:
        """Writes it."""
        data = {AUTHORITIES_KEY: authorities}
        stored = await self._kube.find("ConfigMap", self._namespace, self._name)
        if stored is not None:
            await self._kube.replace("ConfigMap", stored | {"data": data})
            return
        metadata = await owned_metadata(self._kube, self._namespace, self._name, self._service)
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        await self._kube.create("ConfigMap", self._namespace, body)


async def owned_metadata(kube: KubeClient, namespace: str, name: str, owner: str | None) -> Body:
    """Returns the metadata of an object that Kubernetes deletes with a Service of the release."""
    body: Body = {"name": name, "namespace": namespace, "labels": {LABEL_MANAGED_BY: MANAGER}}
    if owner is None:
        return body
    found = (await kube.get("Service", namespace, owner))["metadata"]
    service = {"apiVersion": "v1", "kind": "Service", "name": found["name"], "uid": found["uid"]}
    return body | {"ownerReferences": [service]}


def _held(stored: Body | None) -> Held:
    """Reads the Secret. A certificate that cannot be read counts as missing."""
    texts = _texts(stored or {})
    return Held(
        used=_certificate(texts, "ca.crt", "tls.crt", "tls.key"),
        coming=_certificate(texts, "next-ca.crt", "next.crt", "next.key"),
        former_authority=texts.get("former-ca.crt", ""),
    )


def _texts(stored: Body) -> dict[str, str]:
    return {
        key: base64.b64decode(value).decode(errors="replace")
        for key, value in (stored.get("data") or {}).items()
    }


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


async def _authority(
    kube: KubeClient, settings: Settings, listener: Listener, now: datetime
) -> Authority | None:
    """Returns the listener's authority, which is made and stored if there is none that can sign.

    None = it has none. Raises ClusterError.
    """
    if (name := listener.authority_secret) is None:
        return None
    stored = await kube.find("Secret", settings.namespace, name)
    if stored is not None:
        texts = _texts(stored)
        try:
            key = SecretStr(texts.get("tls.key", ""))
            held = pki.read_authority(texts.get("tls.crt", ""), key)
        except pki.PkiError as error:
            log.warning("authority_unreadable", secret=name, problem=str(error))
        else:
            life = timedelta(seconds=settings.limits.certificate_life_seconds)
            if held.can_sign(listener.names, now + life):
                return held
    made = pki.make_authority(listener.names, now=now, life_seconds=AUTHORITY_LIFE.total_seconds())
    texts = {"tls.crt": made.certificate, "tls.key": made.key.get_secret_value()}
    await _put(kube, settings.namespace, name, listener.owner, stored, texts)
    log.info("authority_made", secret=name, authority=repr(made))
    return made


async def _store(
    kube: KubeClient, namespace: str, listener: Listener, stored: Body | None, held: Held
) -> None:
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
    await _put(kube, namespace, listener.secret, listener.owner, stored, texts)


async def _put(
    kube: KubeClient,
    namespace: str,
    name: str,
    owner: str | None,
    stored: Body | None,
    texts: dict[str, str],
) -> None:
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    if stored is not None:
        await kube.replace("Secret", stored | {"data": data})
        return
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": await owned_metadata(kube, namespace, name, owner),
        "data": data,
    }
    await kube.create("Secret", namespace, body)
