"""How connections leave for the provider, and for the storage that it names.

A cluster may let nothing out except through a proxy, and that proxy may show certificates of an
authority of its own. Both are settings for the provider alone. The variables that a platform sets
for all programs (`HTTPS_PROXY`, `NO_PROXY`) are not read: the API server would be asked through the
proxy too, because Python does not understand the networks in a `NO_PROXY`.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from pydantic import SecretStr
from yarl import URL


@dataclass(frozen=True, kw_only=True)
class Egress:
    """The way to the provider: by default a direct one, and trusting whom the system trusts."""

    proxy: URL | None = field(default=None, repr=False)
    """With the user and the password in it, so it is not shown."""
    trusted: ssl.SSLContext | None = field(default=None, repr=False)

    def session(
        self,
        timeout: aiohttp.ClientTimeout | None = None,
        socket_factory: Callable[[Any], Any] | None = None,
        **connector: Any,
    ) -> aiohttp.ClientSession:
        """Returns a session whose connections go this way; the caller closes it.

        With a proxy, `socket_factory` is not used: what it would see is the proxy's address.
        """
        connections = aiohttp.TCPConnector(
            ssl=self.trusted or True,
            socket_factory=None if self.proxy else socket_factory,
            **connector,
        )
        return aiohttp.ClientSession(
            connector=connections,
            timeout=timeout or aiohttp.ClientTimeout(),
            proxy=self.proxy,
            trust_env=False,
        )


DIRECT = Egress()


def egress(
    proxy_url: str = "",
    username: str = "",
    password: SecretStr | None = None,
    authorities_file: str = "",
) -> Egress:
    """Returns the way by a proxy, if there is one, that also trusts the authorities in a file.

    Raises OSError if the file cannot be read, and ssl.SSLError if it holds no certificate.
    """
    proxy = URL(proxy_url) if proxy_url else None
    if proxy is not None and username:
        secret = password.get_secret_value() if password else ""
        proxy = proxy.with_user(username).with_password(secret)
    trusted = None
    if authorities_file:
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(authorities_file)
    return Egress(proxy=proxy, trusted=trusted)
