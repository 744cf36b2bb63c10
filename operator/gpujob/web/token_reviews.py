"""Finds the account of a Kubernetes token: asks the API server, and caches its answer."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

from pydantic import SecretStr
from starlette.requests import Request

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import Forbidden
from gpujob.adapters.kube import Body, KubeClient
from gpujob.web.bearer import bearer_token, claims_in
from gpujob.web.problems import Problem, recorded

Key = TypeVar("Key")
Value = TypeVar("Value")

HELD_MAX = 1000
REFUSED_SECONDS = 10.0
"""How long a token that is not valid is refused without another review."""
STRANGERS_AT_ONCE = 8
"""How many reviews may be in flight for whoever sends a token: anybody can cause one."""
STRANGERS_WAITING = 64
"""How many strangers may wait for their turn; whoever comes then is sent away."""
KNOWN_AT_ONCE = 32
KNOWN_WAITING = 8
"""How many who claim to be one known holder wait for him; the others are strangers."""


class _Line:
    """Callers who wait for one another."""

    def __init__(self, at_once: int) -> None:
        self._turn = asyncio.Semaphore(at_once)
        self.waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for the caller's turn, which ends with the block."""
        self.waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turn.release()


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
        self._held: dict[bytes, tuple[float, Body]] = {}
        self._refused: dict[bytes, float] = {}
        """Until when, by the token's digest."""
        self._accounts: dict[str, None] = {}
        """Names of those whose tokens were valid; the latest comes last."""
        self._strangers, self._known = _Line(STRANGERS_AT_ONCE), _Line(KNOWN_AT_ONCE)
        self._lines: WeakValueDictionary[str, _Line] = WeakValueDictionary()
        """Each known holder's own."""

    async def user_of(self, token: SecretStr) -> Body | None:
        """Returns the holder of a token as the API server names him; None if it is not valid.

        Raises ClusterError, and Problem if too many tokens are reviewed.
        """
        digest, now = digest_of(token), self._clock.monotonic()
        held = self._held.get(digest)
        if held is not None and held[0] > now:
            return held[1]
        claimed = claims_in(token).sub
        user = await self.review(token, claimed if claimed in self._accounts else None)
        if user is None:
            return None
        _remember(self._held, digest, (now + self._seconds, user))
        _remember(self._accounts, str(user.get("username", "")), None)
        return user

    def was_valid(self, token: SecretStr) -> bool:
        """Whether a review has found a token valid, perhaps a while ago."""
        return digest_of(token) in self._held

    async def review(self, token: SecretStr, known_as: str | None = None) -> Body | None:
        """Returns the holder of a token as `user_of`, but remembers only that there is none.

        `known_as` names a holder whom the token claims and whom we know: he waits for no stranger,
        and others who claim to be him wait for him alone.
        """
        # One that does not even say that it is for us need not be reviewed.
        is_for_us = self._audience in claims_in(token).aud
        if not is_for_us and not self._takes_cluster_tokens:
            return None
        digest, now = digest_of(token), self._clock.monotonic()
        if self._refused.get(digest, now) > now:
            return None
        async with self._turn(known_as):
            review = await self._kube.review_token(token, self._audience if is_for_us else None)
        named = review.get("audiences") or []
        if review.get("authenticated") is True and (not is_for_us or self._audience in named):
            user: Body = review.get("user") or {}
            return user
        _remember(self._refused, digest, now + REFUSED_SECONDS)
        return None

    @asynccontextmanager
    async def _turn(self, known_as: str | None) -> AsyncIterator[None]:
        own = None if known_as is None else self._lines.setdefault(known_as, _Line(1))
        if own is not None and own.waiting < KNOWN_WAITING:
            async with own.turn(), self._known.turn():
                yield
            return
        if self._strangers.waiting >= STRANGERS_WAITING:
            words = "too many tokens are being checked now; try again later"
            raise Problem(503, words, headers={"Retry-After": "1"})
        async with self._strangers.turn():
            yield

    async def demand(self, request: Request) -> None:
        """Raises Problem unless the cluster's RBAC grants the bearer this method on this path.

        The verb is the method in lower case; whoever may `get` may send HEAD. Raises ClusterError.
        """
        path = request.url.path
        verb = "get" if request.method == "HEAD" else request.method.lower()
        if (token := bearer_token(request.headers)) is None:
            raise Problem(401, "a bearer token is needed")
        try:
            if (user := await self.user_of(token)) is None:
                raise Problem(401, "the token is not valid here")
            is_allowed = await self._kube.may_reach(user, path, verb)
        except Forbidden as error:
            words = "the operator has no right to review tokens: see rbac.clusterRoles of its chart"
            raise Problem(503, words, error_id=recorded(error)) from None
        if not is_allowed:
            raise Problem(403, f"RBAC does not allow this account to {verb} {path}")


def digest_of(token: SecretStr) -> bytes:
    """Returns what stands for a token in memory."""
    return hashlib.sha256(token.get_secret_value().encode()).digest()


def _remember(held: dict[Key, Value], key: Key, value: Value) -> None:
    """Adds an entry as the latest one, in place of the oldest if there are too many."""
    held.pop(key, None)
    held[key] = value
    if len(held) > HELD_MAX:
        del held[next(iter(held))]
