"""Finds the account of a Kubernetes token: asks the API server, and caches its answer."""

import asyncio
import hashlib

from pydantic import SecretStr
from starlette.requests import Request

from gpujob.adapters.clock import Clock
from gpujob.adapters.kube import Body, KubeClient
from gpujob.web.bearer import bearer_token, claims_in
from gpujob.web.problems import Problem

HELD_MAX = 1000
AT_ONCE = 8
"""How many reviews may be in flight. Anybody can cause one, with any token."""


class TokenReviews:
    """Asks the API server about tokens, and remembers the holders of valid ones."""

    def __init__(
        self,
        kube: KubeClient,
        clock: Clock,
        *,
        believed_seconds: float,
        audience: str,
        takes_cluster_tokens: bool = False,
    ) -> None:
        """Accepts tokens for this audience, and those for the API server itself if it is told to.

        Whoever gets a token of the second kind can use it against the cluster.
        """
        self._kube, self._clock = kube, clock
        self._seconds, self._audience = believed_seconds, audience
        self._takes_cluster_tokens = takes_cluster_tokens
        self._held: dict[str, tuple[float, Body]] = {}
        self._asking = asyncio.Semaphore(AT_ONCE)

    async def user_of(self, token: SecretStr) -> Body | None:
        """Returns the holder of a token as the API server names him; None if it is not valid.

        Raises ClusterError.
        """
        digest = hashlib.sha256(token.get_secret_value().encode()).hexdigest()
        now = self._clock.monotonic()
        held = self._held.get(digest)
        if held is not None and held[0] > now:
            return held[1]
        if (user := await self.review(token)) is None:
            return None
        self._held = {key: one for key, one in self._held.items() if one[0] > now}
        if len(self._held) < HELD_MAX:
            self._held[digest] = (now + self._seconds, user)
        return user

    async def review(self, token: SecretStr) -> Body | None:
        """Returns the holder of a token as `user_of`, but does not remember him."""
        # One that does not even say that it is for us need not be reviewed.
        is_for_us = self._audience in claims_in(token).aud
        if not is_for_us and not self._takes_cluster_tokens:
            return None
        async with self._asking:
            review = await self._kube.review_token(token, self._audience if is_for_us else None)
        if review.get("authenticated") is not True:
            return None
        if is_for_us and self._audience not in (review.get("audiences") or []):
            return None
        user: Body = review.get("user") or {}
        return user

    async def demand(self, request: Request) -> None:
        """Raises Problem unless the cluster's RBAC grants the bearer this method on this path.

        The verb is the method in lower case; whoever may `get` may send HEAD. Raises ClusterError.
        """
        path = request.url.path
        verb = "get" if request.method == "HEAD" else request.method.lower()
        if (token := bearer_token(request.headers)) is None:
            raise Problem(401, "a bearer token is needed")
        if (user := await self.user_of(token)) is None:
            raise Problem(401, "the token is not valid here")
        if not await self._kube.may_reach(user, path, verb):
            raise Problem(403, f"RBAC does not allow this account to {verb} {path}")
