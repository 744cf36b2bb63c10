"""Which pod a driver's token belongs to: the API server is asked once for each token.

A token that is bound to a pod is valid until it expires or its pod is deleted, and its review is
remembered as long: only for driver pods that the watch shows, and one token for each. It counts
only while the cache shows this very pod, and shows no deletion of it. Whatever else comes is
reviewed again, so no caller makes this memory larger than the number of these pods.

It is remembered as soon as it is answered, even if the driver has given up its request meanwhile:
else drivers that lose their patience would have the API server asked again and again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import SecretStr

from gpujob.adapters.clock import Clock
from gpujob.adapters.kube import Body
from gpujob.controller.workqueue import Key
from gpujob.web.bearer import Binding, claims_in
from gpujob.web.token_reviews import digest_of

POD_UID = "authentication.kubernetes.io/pod-uid"
POD_NAME = "authentication.kubernetes.io/pod-name"


@dataclass(frozen=True, slots=True)
class DriverPod:
    """The pod that a token is bound to, as the API server names it."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class _Review:
    pod: DriverPod
    until: float
    """Monotonic time at which the token has expired."""


class Reviews(Protocol):
    """Finds the holder of a token."""

    async def review(self, token: SecretStr, known_as: str | None = None, /) -> Body | None:
        """Returns the holder as a TokenReview names it; None if the token is not valid.

        `known_as` is the uid of a driver's pod that the token claims. Raises ClusterError.
        """
        ...


class DriverTokens:
    """Finds the pods of tokens."""

    def __init__(self, reviews: Reviews, clock: Clock, lives: Callable[[Key, str], bool]) -> None:
        """`lives` says whether the cluster was last seen with the pod of this uid."""
        self._reviews, self._clock, self._lives = reviews, clock, lives
        self._known: dict[bytes, _Review] = {}
        self._of_pods: dict[str, bytes] = {}
        """The digest of the token that is known of a pod, by the pod's uid."""

    def __len__(self) -> int:
        """Returns how many tokens are remembered."""
        return len(self._known)

    async def pod_of(self, token: SecretStr) -> DriverPod | None:
        """Returns the pod that a token is bound to; None if it is not valid, or bound to none.

        Raises ClusterError.
        """
        known = self._known.get(digest_of(token))
        if known is not None and self._holds(known):
            return known.pod
        claimed = _claimed(claims_in(token).binding)
        is_known = claimed is not None and self._is_there(claimed)
        user = await self._reviews.review(token, claimed.uid if claimed and is_known else None)
        pod = None if user is None else _pod_of(user)
        if pod is not None and self._is_there(pod):
            self._remember(token, pod)
        return pod

    def _remember(self, token: SecretStr, pod: DriverPod) -> None:
        if (left := self._seconds_left(token)) is None:
            return
        self.forget(pod.uid)
        digest = digest_of(token)
        self._known[digest] = _Review(pod, self._clock.monotonic() + left)
        self._of_pods[pod.uid] = digest

    def forget(self, pod_uid: str) -> None:
        """Drops what is known of a pod's token."""
        if (digest := self._of_pods.pop(pod_uid, None)) is not None:
            del self._known[digest]

    def _holds(self, known: _Review) -> bool:
        return self._clock.monotonic() < known.until and self._is_there(known.pod)

    def _is_there(self, pod: DriverPod) -> bool:
        return self._lives(Key("Pod", pod.namespace, pod.name), pod.uid)

    def _seconds_left(self, token: SecretStr) -> float | None:
        """Returns how long a token is still valid; None = it does not say."""
        claims = claims_in(token)
        if claims.exp is None or claims.iat is None:
            return None
        # By a clock that is behind, it would be valid for longer than it ever was.
        return min(claims.exp - self._clock.now().timestamp(), claims.exp - claims.iat)


def _claimed(binding: Binding | None) -> DriverPod | None:
    """Returns the pod that a token says that it is bound to, which anybody may say."""
    if binding is None or binding.pod is None:
        return None
    return DriverPod(binding.namespace, binding.pod.name, binding.pod.uid)


def _pod_of(user: Mapping[str, Any]) -> DriverPod | None:
    """Returns the pod that a service account's token is bound to, or None."""
    extra = user.get("extra") or {}
    parts = str(user.get("username", "")).split(":")
    uids, names = extra.get(POD_UID) or [], extra.get(POD_NAME) or []
    if parts[:2] != ["system", "serviceaccount"] or len(parts) != 4 or not uids or not names:
        return None
    return DriverPod(namespace=parts[2], name=names[0], uid=uids[0])
