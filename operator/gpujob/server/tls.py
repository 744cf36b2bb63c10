"""The server's certificate, read from the Secret that the controller keeps."""

import asyncio
import base64
import ssl

import structlog
from pydantic import SecretBytes

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.core.certificates import secret_name
from gpujob.server.settings import ServerSettings
from gpujob.web.tls import ShownCertificate

log = structlog.get_logger("gpujob.server")


class Tls:
    """The TLS contexts of admission and API; new connections get the latest certificate.

    They are two, since only admission may demand certificates of its clients.
    """

    def __init__(self, kube: KubeClient, settings: ServerSettings) -> None:
        self._kube = kube
        self._settings = settings
        self._certificates = [ShownCertificate(ssl.TLSVersion.TLSv1_2) for _ in range(2)]
        self.of_admission, self.of_api = (one.context for one in self._certificates)

    @property
    def is_loaded(self) -> bool:
        """True once there is a certificate."""
        return all(one.is_loaded for one in self._certificates)

    async def load(self) -> None:
        """Waits until there is a certificate."""
        await self._look()
        while not self.is_loaded:
            await asyncio.sleep(1)
            await self._look()

    async def follow(self) -> None:
        """Replaces the certificate whenever the Secret holds another one."""
        while True:
            await asyncio.sleep(self._settings.look_seconds)
            await self._look()

    async def _look(self) -> None:
        namespace, name = self._settings.namespace, secret_name(self._settings.name)
        try:
            stored = await self._kube.find("Secret", namespace, name)
        except ClusterError as error:
            log.warning("certificate_not_read", problem=str(error))
            return
        if stored is None:
            if not self.is_loaded:
                log.info("waiting_for_certificate", secret=f"{namespace}/{name}")
            return
        try:
            self._show(stored)
        except (KeyError, ValueError, ssl.SSLError) as error:
            # The current certificate stays valid long enough for somebody to notice this.
            log.error("certificate_unusable", secret=f"{namespace}/{name}", problem=repr(error))

    def _show(self, stored: Body) -> None:
        data = stored["data"]
        chain, key = (base64.b64decode(data[name]) for name in ("tls.crt", "tls.key"))
        shown = [one.show(chain, SecretBytes(key)) for one in self._certificates]
        if any(shown):
            log.info("certificate_loaded")
