"""What carries requests to the provider that may be repeated, and keeps them to its pace."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from gpujob.adapters.door import Door
from gpujob.adapters.errors import ProviderError
from gpujob.core.market.pace import Kind


class Answer(NamedTuple):
    """A good answer of the provider."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]


class Channel(Protocol):
    """Carries requests to the provider that may be repeated, and brings their answers back."""

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Makes one request as the account; returns its answer, a JSON object with status 2xx.

        Raises ProviderUnavailable, RateLimited or CredentialsRejected for anything else, an answer
        with `"success": false` included.
        """
        ...


class PacedChannel:
    """A `Channel` behind the door."""

    def __init__(self, channel: Channel, door: Door) -> None:
        self._channel, self._door = channel, door

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Makes one request once its turn has come."""
        kind = kind_of(method, path)
        sent_at = await self._door.enter(kind)
        error: ProviderError | None = None
        try:
            return await self._channel.request(method, path, body, query)
        except ProviderError as raised:
            error = raised
            raise
        finally:
            self._door.answered(kind, sent_at, error)


def kind_of(method: str, path: str) -> Kind:
    """Returns which of the provider's thresholds a request of the operator falls under."""
    match method, path.strip("/").split("/")[2:]:
        case "POST", ["bundles"]:
            return Kind.SEARCH
        case "GET", ["gpu_names", "unique"]:
            return Kind.NAMES
        case "GET", ["users", "current"]:
            return Kind.ACCOUNT
        case "GET", ["instances"]:
            return Kind.LIST
        case "PUT", ["instances", "request_logs", _]:
            return Kind.LOG
        case "PUT", ["instances", _]:
            return Kind.STATE
        case "POST", ["instances", _, "ssh"]:
            return Kind.KEY
        case "DELETE", ["instances", _]:
            return Kind.DESTROY
    raise AssertionError(f"{method} {path} has no pace")
