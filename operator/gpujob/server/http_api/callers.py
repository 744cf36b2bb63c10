"""Who calls and what they may do, by a token of the API's own or by one of the cluster's.

The API server reviews a token of the cluster, and decides by RBAC on each thing that its bearer
wants to do. So nobody may do more here than there.
"""

import asyncio
import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import SecretStr

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.meta import API_AUDIENCE
from gpujob.core.api_tokens import TOKEN_PREFIX, Grant, Known, digest_of, grant_of, known_tokens
from gpujob.web.problems import Problem, recorded
from gpujob.web.token_reviews import TokenReviews

REVIEW_SECONDS = 10.0
"""How long the review of a token is kept; a deleted account is shut out after that."""
READS = frozenset({"get", "list", "watch"})

log = structlog.get_logger("gpujob.http_api")


@dataclass(frozen=True)
class Caller:
    """Somebody whose token is valid."""

    name: str
    """Identifies the caller in the log and for limits."""
    grant: Grant | None
    """What a token of the API's own grants; None if the token is the cluster's and RBAC decides."""
    user: Mapping[str, Any]
    """The bearer of a token of the cluster, as the API server names him."""


def unauthorized() -> Problem:
    """Returns one answer whatever is wrong with a token, so that it helps nobody to guess one."""
    return Problem(
        401,
        "a valid bearer token is needed",
        headers={"WWW-Authenticate": 'Bearer realm="gpujob"'},
    )


class Callers:
    """Knows callers by their tokens."""

    def __init__(
        self,
        kube: KubeClient,
        clock: Clock,
        bootstrap: SecretStr,
        *,
        takes_cluster_tokens: bool = False,
    ) -> None:
        """`takes_cluster_tokens`: as of TokenReviews."""
        self._kube, self._clock = kube, clock
        self._known: tuple[Known, ...] = ()
        self._bootstrap: tuple[Known, ...] = ()
        if bootstrap.get_secret_value():
            everything = Grant(
                name="bootstrap", namespaces=frozenset({"*"}), access="write", expires=None
            )
            digest = digest_of(bootstrap.get_secret_value())
            self._bootstrap = (Known(digest, everything),)
        self._reviews = TokenReviews(
            kube,
            clock,
            believed_seconds=REVIEW_SECONDS,
            audience=API_AUDIENCE,
            takes_cluster_tokens=takes_cluster_tokens,
        )

    async def caller_of(self, token: SecretStr | None) -> Caller:
        """Returns the holder of a token; raises Problem."""
        if token is None:
            raise unauthorized()
        if token.get_secret_value().startswith(TOKEN_PREFIX):
            # The API server cannot know such a token and need not see it.
            if (grant := self._grant_of(token)) is None:
                raise unauthorized()
            return Caller(f"token {grant.name}", grant, {})
        try:
            user = await self._reviews.user_of(token)
        except ClusterError as error:
            words = "the cluster cannot check tokens now; try again later"
            raise Problem(503, words, error_id=recorded(error)) from None
        if user is None:
            raise unauthorized()
        return Caller(str(user.get("username", "")), None, user)

    def is_known(self, token: SecretStr | None) -> bool:
        """Whether a token is good, or was when it was reviewed; it asks nobody."""
        if token is None:
            return False
        return self._grant_of(token) is not None or self._reviews.was_valid(token)

    def _grant_of(self, token: SecretStr) -> Grant | None:
        known = (*self._known, *self._bootstrap)
        return grant_of(token.get_secret_value(), known, self._clock.now())

    async def demand(self, caller: Caller, verb: str, resource: str, namespace: str) -> None:
        """Raises Problem unless a caller may do something to objects of a kind in a namespace.

        `verb` and `resource` are those of RBAC, such as `list` and `gpujob.dev/gpujobs`. An empty
        namespace means all namespaces.
        """
        if caller.grant is not None:
            allowed = caller.grant.allows(namespace=namespace, writes=verb not in READS)
        else:
            allowed = await self._kube.may(
                dict(caller.user), verb=verb, resource=resource, namespace=namespace
            )
        if not allowed:
            where = f"in namespace {namespace}" if namespace else "in all namespaces"
            what = resource.partition("/")[2]
            raise Problem(403, f"this token may not {verb} {what} {where}")

    async def follow(self, namespace: str, secret: str, seconds: float) -> None:
        """Reads the Secret of tokens regularly; while that fails, the last ones stay valid.

        They still expire in time, because each request compares the time.
        """
        logged: object = None
        while True:
            try:
                stored = await self._kube.find("Secret", namespace, secret)
                self._known, wrong = known_tokens(_data(stored))
                if (seen := (len(self._known), wrong)) != logged:
                    log.info("tokens_read", secret=secret, tokens=len(self._known))
                    for name in wrong:
                        log.error("token_unreadable", secret=secret, token=name)
                logged = seen
            except ClusterError as error:
                log.warning("tokens_not_read", problem=str(error))
            await asyncio.sleep(seconds)


def _data(stored: Body | None) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, text in ((stored or {}).get("data") or {}).items():
        try:
            found[name] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            found[name] = b""
    return found
