"""What can go wrong outside, as a closed tree; nothing else leaves an adapter.

AdapterError
├── ProviderError
│   ├── ProviderUnavailable     no answer, 5xx, a body that is not what it should be
│   ├── RateLimited             429; carries how long to wait, if told
│   ├── CredentialsRejected     401, 403, or 404 with `auth_error`: never "gone"
│   ├── RentRefused             a definite no to a rent request: nothing was rented
│   ├── RentWithheld            the rent request never left this process
│   └── RentUnclear             it may have been accepted; carries what is known
├── ClusterError
│   ├── ClusterUnavailable      no answer, 5xx, 429, a body that is not what it should be
│   │   └── NotServed           404 that is not the API server's word on an object
│   ├── Conflict                409: the object changed, or exists
│   ├── ObjectGone              404 in the API server's own words
│   ├── Forbidden               401, 403
│   └── Invalid                 400, 422: the API server refuses the object
├── ControllerUnavailable       the server's question got no answer
├── ControllerBusy              429: it answers so many questions and no more
└── MachineError
    ├── MachineUnreachable      refused, timed out, cut
    ├── HostKeyMismatch         it shows another key than the pinned one
    └── LoginRefused            it refuses our key
"""

from gpujob.api.reasons import Reason


class AdapterError(Exception):
    """Something outside did not do what was asked."""


class ProviderError(AdapterError):
    """The provider did not do what was asked."""

    reason: Reason = Reason.PROVIDER_UNAVAILABLE


class ProviderUnavailable(ProviderError):
    """No usable answer; nothing may be concluded."""


class RateLimited(ProviderError):
    """Asked too often."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class CredentialsRejected(ProviderError):
    """The account's key is refused."""

    reason = Reason.CREDENTIALS_REJECTED


class RentRefused(ProviderError):
    """The provider said no; nothing was rented."""

    def __init__(self, message: str, reason: Reason = Reason.OFFER_GONE) -> None:
        super().__init__(message)
        self.reason = reason


class RentWithheld(ProviderError):
    """The request was never sent, and never will be."""

    reason = Reason.RENT_WITHHELD


class RentUnclear(ProviderError):
    """The request may have been accepted."""

    reason = Reason.RENT_UNANSWERED


class ClusterError(AdapterError):
    """The Kubernetes API did not do what was asked."""


class ClusterUnavailable(ClusterError):
    """No usable answer."""


class NotServed(ClusterUnavailable):
    """Nobody knows the path; of an object it says nothing."""


class Conflict(ClusterError):
    """The object is not the version that was meant, or exists already."""


class ObjectGone(ClusterError):
    """There is no such object."""


class Forbidden(ClusterError):
    """Our service account may not do this, or policy forbids it."""


class Invalid(ClusterError):
    """The API server refuses the object as it is."""

    def __init__(self, message: str, causes: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.causes = causes
        """Fields and what is wrong with them, as far as the API server names them."""


class Expired(ClusterError):
    """What is to be gone on with is older than the API server remembers, or newer than it knows."""


class ControllerUnavailable(AdapterError):
    """The controller did not answer what the server asked."""


class ControllerBusy(AdapterError):
    """The controller answers only so many questions of all who ask."""


class MachineError(AdapterError):
    """The rented machine did not do what was asked."""


class MachineUnreachable(MachineError):
    """No connection, or it broke."""


class ScriptFailed(MachineUnreachable):
    """A script on the machine ended with another status than 0, on a line that held."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"a script ended with {status}: {words}")
        self.status = status


class HostKeyMismatch(MachineError):
    """Another host key than the pinned one."""


class LoginRefused(MachineError):
    """Our key is not accepted."""
