"""The provider's contract: what the operator may rely on, and what it may not.

Whoever asks a marketplace for machines asks through these two protocols: `VastClient` keeps them
over HTTP, the deterministic simulation keeps them over its market model. Their promises are few,
because the provider gives few: it has no idempotency key, its listings lag, and its answers get
lost. The rules that keep money safe stand on these promises and on nothing else.

Every method raises `ProviderError` or one of its kinds, and nothing else: `ProviderUnavailable` if
no usable answer came, `RateLimited` if we asked too often (although each request waits for its
turn, `core.market.pace`), and `CredentialsRejected` if the
account's key is refused. None of the three says anything about offers or machines. No message of
an error contains a secret. No method repeats a request by itself: the caller asks again when it
next looks at the world.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gpujob.api.transport import RegistryLogin
from gpujob.core.effects import Rent
from gpujob.core.market.listings import Listing
from gpujob.core.market.offers import Quotes
from gpujob.core.market.search import Search


class RentLine(Protocol):
    """One open connection to the provider, good for one rent request."""

    @property
    def account_id(self) -> int:
        """The account that the request will be charged to, as the provider named it just now."""
        ...

    async def send(
        self, request: Rent, timeout_seconds: float, login: RegistryLogin | None = None
    ) -> int:
        """Sends the one rent request and returns the number of the machine that was rented.

        With `login` the provider pulls the image; no message of an error contains its password.
        The request leaves this process at most once: no layer repeats it, no redirect is followed,
        and it is not sent at all after `request.not_after`. What is known afterwards:

        * a number: the machine exists, also if the provider's answer calls itself an error;
        * `RentDenied`: a definite no; this request has rented nothing and never will;
        * `RentWithheld`: the request was not sent and never will be;
        * `RentUnclear`: a machine may exist now, or may appear later. Only listings can tell.
        """
        ...


class Provider(Protocol):
    """A marketplace as one account sees it."""

    async def search(self, search: Search) -> Quotes:
        """Returns offers that meet the needs, cheapest first.

        The provider's own filters are not dependable and its answers are capped: the caller checks
        each offer again, and never reads a missing offer as "there is none". An offer whose price
        or size cannot be read is left out and counted in `Quotes.unreadable`.
        """
        ...

    async def gpu_models(self) -> tuple[str, ...]:
        """Returns the names of all GPU models that the provider knows, sorted."""
        ...

    async def list_leases(self) -> Listing:
        """Returns every machine of the account, or raises.

        A `Listing` is complete by the provider's own figures: each page was answered, the rows are
        as many as the stated total, no page is left. One row that cannot be read makes the whole
        listing fail. Complete is not the same as true: a new machine may be missing for a while, a
        destroyed one may still be shown, and a single listing may lie. What listings prove is
        decided in `core.market.listings`.
        """
        ...

    async def read_log(self, instance_id: int) -> str | None:
        """Returns the last lines that a machine printed, or None if they are not available yet.

        A log that is too long to be read whole raises: the part that was not read could contradict
        the part that was.
        """
        ...

    async def attach_key(self, instance_id: int, public_key: str) -> None:
        """Lets a key log in to one machine, and to no other; returns if it does already.

        It may be asked again.
        """
        ...

    async def start(self, instance_id: int) -> None:
        """Asks the provider to run a machine that stands still; it may be asked again.

        Only listings show whether it runs then. It can cost money: only a leader asks.
        """
        ...

    async def destroy(self, instance_id: int) -> None:
        """Asks the provider to destroy a machine.

        Neither a return nor an error proves anything, not even an error that says that there is no
        such machine: only listings that were requested later can. It is safe to ask again.
        """
        ...

    def rent_line(self) -> AbstractAsyncContextManager[RentLine]:
        """Opens the connection for one rent request, and learns whose account it is.

        This costs nothing. It is done before the rent is recorded, so that a failure up to here
        leaves the name of the attempt unused.
        """
        ...
