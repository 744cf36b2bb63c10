"""What can go wrong outside this process, as a closed tree; nothing else leaves an adapter.

AdapterError
├── ProviderError
│   ├── ProviderUnavailable     no answer, 5xx, or an answer that cannot be used
│   ├── RateLimited             429; carries how long to wait, if the provider said so
│   │   └── SearchQuotaExhausted  no more searches today; carries when that ends
│   ├── CredentialsRejected     401, 403, or 404 with `auth_error`: never read as "gone"
│   ├── RentDenied              a definite no to a rent request: nothing was rented
│   ├── RentWithheld            the rent request never left this process
│   └── RentUnclear             the rent request may have been accepted
├── ClusterError
│   ├── ClusterUnavailable      no answer, 5xx, 429, or an answer that cannot be used
│   │   ├── AnswerTooLarge      it is longer than any object
│   │   └── NotServed           404 for the path itself: it says nothing about an object
│   ├── Conflict                409: the object has changed, or exists already
│   ├── ObjectGone              404 in the API server's own words
│   ├── Forbidden               401, 403
│   ├── Invalid                 400, 422: the API server refuses the object
│   └── Expired                 410: the continue token or version is too old, or from the future
├── ControllerUnavailable       the server's question to the controller got no answer
│   └── NotTheDriver            403: the controller has recorded another pod as the node's driver
├── ControllerBusy              429: the controller answers a limited number of questions
└── MachineError
    ├── MachineUnreachable      refused, timed out, or cut
    │   ├── SessionHangs        start-up files of root's shell do not end; the machine answers
    │   └── ScriptFailed        a script ended with another status than 0; the connection held
    ├── SessionBroken           the start-up files of root's shell end every session
    ├── HostKeyMismatch         the machine shows another host key than the pinned one
    └── LoginRefused            the machine refuses the node's key
"""

from datetime import datetime

from gpujob.api.reasons import Reason


class AdapterError(Exception):
    """Something outside this process did not do what it was asked to do."""


class ProviderError(AdapterError):
    """The provider did not do what it was asked to do."""

    reason: Reason = Reason.PROVIDER_UNAVAILABLE


class ProviderUnavailable(ProviderError):
    """There is no usable answer, so nothing may be concluded."""


class RateLimited(ProviderError):
    """We asked more often than the provider allows."""

    def __init__(
        self,
        message: str,
        retry_after_seconds: float | None = None,
        threshold_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.threshold_seconds = threshold_seconds
        """The least interval between two such requests, if the provider said so."""


class SearchQuotaExhausted(RateLimited):
    """The account may not search any more on this day."""

    reason = Reason.SEARCH_QUOTA_EXHAUSTED

    def __init__(self, message: str, resets_at: datetime | None) -> None:
        super().__init__(message)
        self.resets_at = resets_at
        """When the account may search again; None = the provider did not say."""


class CredentialsRejected(ProviderError):
    """The provider refuses the account's key."""

    reason = Reason.CREDENTIALS_REJECTED


class RentDenied(ProviderError):
    """The provider said no, and nothing was rented."""

    def __init__(self, message: str, reason: Reason = Reason.OFFER_GONE) -> None:
        super().__init__(message)
        self.reason = reason


class RentWithheld(ProviderError):
    """The request was not sent and never will be."""

    reason = Reason.RENT_WITHHELD


class RentUnclear(ProviderError):
    """The request may have been accepted: a machine may exist."""

    reason = Reason.RENT_UNANSWERED


class ClusterError(AdapterError):
    """The Kubernetes API did not do what it was asked to do."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said or message
        """The API server's own words, without what it was asked."""


class ClusterUnavailable(ClusterError):
    """There is no usable answer."""


class AnswerTooLarge(ClusterUnavailable):
    """The answer is longer than any object can be; a list may be asked for in smaller pages."""


class NotServed(ClusterUnavailable):
    """The path is unknown to whoever answered; nothing is known about the object."""


class Conflict(ClusterError):
    """The object is not the version that was meant, or it exists already."""


class ObjectGone(ClusterError):
    """There is no such object."""


class Forbidden(ClusterError):
    """Our service account may not do this, or a policy forbids it."""


class Invalid(ClusterError):
    """The API server refuses the object as it is."""

    def __init__(
        self, message: str, causes: tuple[tuple[str, str], ...] = (), said: str = ""
    ) -> None:
        super().__init__(message, said)
        self.causes = causes
        """Fields and what is wrong with each, as far as the API server names them."""


class Expired(ClusterError):
    """The continue token or resourceVersion is too old (410), or newer than the server knows."""


class ControllerUnavailable(AdapterError):
    """The controller did not answer the server's question."""


class NotTheDriver(ControllerUnavailable):
    """The controller has recorded another pod as the driver of this node."""


class ControllerBusy(AdapterError):
    """The controller answers no more questions at the moment."""


class MachineError(AdapterError):
    """The rented machine did not do what it was asked to do."""


class MachineUnreachable(MachineError):
    """There is no connection, or it broke."""


class ScriptFailed(MachineUnreachable):
    """A script on the machine ended with another status than 0, and the connection held."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"a script on the machine ended with status {status}: {words}")
        self.status = status


class SessionBroken(MachineError):
    """The login shell of the image comes to no script: its start-up files do not let it."""


class SessionHangs(MachineUnreachable):
    """The start-up files of root's shell do not end, while the machine itself answers."""


class HostKeyMismatch(MachineError):
    """The machine shows another host key than the pinned one."""


class LoginRefused(MachineError):
    """The machine refuses the node's key."""
