"""Fetches a machine's log from where the provider says that it lies.

That storage is somebody else's, and its address is the provider's word: it must not lead into our
own network. What counts is the address that is connected to, so that neither an odd spelling nor a
name that means another address at the second look is of use to anybody.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import aiohttp
from aiohttp import AddrInfoType
from yarl import URL

from gpujob.adapters.body import whole_body
from gpujob.adapters.egress import DIRECT, Egress
from gpujob.adapters.errors import ProviderUnavailable
from gpujob.adapters.vast_wire import is_local

LOG_BYTES_MAX = 4_000_000
"""A longer log counts as unread. Two different host keys in one log void each other, and one may be
in its first line and the other in its last: no part of it can stand for the whole."""
LOOK_SECONDS = 10.0

_NAT64 = ip_network("64:ff9b::/96")
"""An IPv4 address, as a host without one reaches it (RFC 6052)."""
_NEAR = [
    ip_network(text)
    for text in (
        "192.0.0.0/24",  # of protocols, RFC 6890; some clouds have their metadata there
        "168.63.129.16/32",  # of each virtual machine in Azure, by Microsoft's documentation
        "::/96",  # IPv4-compatible, deprecated by RFC 4291
        "2002::/16",  # 6to4, deprecated by RFC 7526
        "64:ff9b:1::/48",  # NAT64 of a local network, RFC 8215
        "fec0::/10",  # site-local, deprecated by RFC 3879
    )
]
"""What Python's `is_global` calls public, and is not."""


class LogStore:
    """The storage that a provider names."""

    def __init__(self, provider_url: str, egress: Egress = DIRECT) -> None:
        self._provider = URL(provider_url)
        self._egress = egress
        self._is_local = is_local(provider_url)

    def place(self, url: object) -> URL:
        """Returns an address that the provider gave; raises ProviderUnavailable if it is of no use.

        It is one of HTTPS if the provider's own is one.
        """
        schemes = ("https",) if self._provider.scheme == "https" else ("http", "https")
        try:
            found = URL(url if isinstance(url, str) else "")
        except ValueError:
            found = URL()
        if found.scheme not in schemes or not found.raw_host:
            raise ProviderUnavailable(f"the address of the log is none of {' or '.join(schemes)}")
        if found.raw_user is not None or found.raw_password is not None:
            raise ProviderUnavailable("the address of the log names a user")
        return found

    async def read(self, place: URL) -> bytes | None:
        """Returns what lies there; None = nothing yet.

        The account's key does not go there, and no redirect is followed. Raises
        ProviderUnavailable, also for more than `LOG_BYTES_MAX`. Where a name leads is for the proxy
        to judge, if there is one; numbers are judged here.
        """
        may_be_near = self._is_local or place.raw_host == self._provider.raw_host
        if self._egress.proxy and not may_be_near and not _may_be_far(str(place.raw_host)):
            raise ProviderUnavailable("the log is said to be in a network of ours")
        refused: list[str] = []

        def opened(where: AddrInfoType) -> socket.socket:
            family, kind, protocol, _, (host, *_) = where
            if not may_be_near and not is_far(str(host)):
                refused.append(str(host))
                raise PermissionError
            made = socket.socket(family, kind, protocol)
            made.setblocking(False)
            return made

        timeout = aiohttp.ClientTimeout(total=LOOK_SECONDS)
        try:
            async with (
                self._egress.session(timeout, opened, force_close=True) as session,
                session.get(place, allow_redirects=False) as response,
            ):
                return await _log_in(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if refused:
                raise ProviderUnavailable("the log is said to be in a network of ours") from None
            # The library's words may hold the address, whose query is a signature.
            kind = type(error).__name__
            raise ProviderUnavailable(f"the log cannot be downloaded: {kind}") from None


async def _log_in(response: aiohttp.ClientResponse) -> bytes | None:
    if response.status in (403, 404):
        return None
    if response.status != 200:
        words = f"the download of the log was answered with status {response.status}"
        raise ProviderUnavailable(words)
    log = await whole_body(response, LOG_BYTES_MAX)
    if log is None:
        raise ProviderUnavailable(f"the log has more than {LOG_BYTES_MAX} bytes")
    return log


def _may_be_far(host: str) -> bool:
    """Whether a host may be one of the internet, as far as can be said without asking for its name.

    A last part that begins with a digit makes no name: some programs read it as an address.
    """
    name = host.rstrip(".")
    if ":" in name or name.rpartition(".")[2][:1].isdigit():
        return is_far(name)
    return not is_local(f"//{name}")


def is_far(text: str) -> bool:
    """Whether an address, as numbers, is one of the internet rather than of somebody's network."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address in _NAT64:
            address = IPv4Address(int(address) & 0xFFFFFFFF)
    near = any(address in network for network in _NEAR)
    return address.is_global and not (address.is_multicast or address.is_reserved or near)
