"""Which tokens of the cluster are taken, and which the API server is not even asked about."""

import asyncio
import base64
import json
from typing import Any

import pytest
from pydantic import SecretStr

from gpujob.adapters.kube import Body
from gpujob.web.bearer import claims_in
from gpujob.web.problems import Problem
from gpujob.web.token_reviews import STRANGERS_AT_ONCE, STRANGERS_WAITING, TokenReviews

OURS, CLUSTERS = "gpujob.dev/api", "https://kubernetes.default.svc.cluster.local"


def a_token(claims: Any) -> str:
    """Returns a JSON Web Token that nobody signed."""
    raw = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return f"e30.{base64.urlsafe_b64encode(raw).decode().rstrip('=')}.c2ln"


class Cluster:
    """Knows the audience that each token is really for, as a signature shows it."""

    def __init__(self, real: tuple[str, ...]) -> None:
        self.asked: list[str | None] = []
        self._real = real

    async def review_token(self, _: SecretStr, audience: str | None) -> Body:
        self.asked.append(audience)
        good = (audience or CLUSTERS) in self._real
        return {
            "authenticated": good,
            "audiences": [audience or CLUSTERS],
            "user": {"username": "u"},
        }


class Still:
    """Time stands still."""

    def monotonic(self) -> float:
        return 0.0


def holder(text: str, cluster: Any, *, takes_cluster_tokens: bool) -> Body | None:
    clock: Any = Still()
    reviews = TokenReviews(
        cluster,
        clock,
        believed_seconds=1,
        audience=OURS,
        takes_cluster_tokens=takes_cluster_tokens,
    )
    return asyncio.run(reviews.user_of(SecretStr(text)))


@pytest.mark.parametrize("claimed", [[OURS], OURS, [OURS, CLUSTERS], ["another", OURS]])
@pytest.mark.parametrize("takes_cluster_tokens", [False, True])
def test_a_token_for_us_is_reviewed_for_us_alone(claimed: Any, takes_cluster_tokens: bool) -> None:
    """What it claims is not believed."""
    good, forged = Cluster((OURS,)), Cluster((CLUSTERS,))
    text = a_token({"aud": claimed})

    assert holder(text, good, takes_cluster_tokens=takes_cluster_tokens)
    assert holder(text, forged, takes_cluster_tokens=takes_cluster_tokens) is None
    assert good.asked == forged.asked == [OURS]


OTHERS = {
    "for the API server": a_token({"aud": [CLUSTERS]}),
    "for nobody": a_token({}),
    "opaque": "0123456789abcdef",
    "two parts": "e30.e30",
    "no object": a_token([OURS]),
    "audiences that are no texts": a_token({"aud": [OURS, 1]}),
    "no JSON": a_token(b"\xff{"),
    "no base64": "e30.*.c2ln",
    "very deep": a_token(b"[" * 6000),
    "a huge number": a_token(b'{"aud": "gpujob.dev/api", "exp": 1' + b"0" * 5000 + b"}"),
}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_a_token_that_is_not_for_us_is_not_reviewed(text: str) -> None:
    """Unless those of the cluster are taken too: then for the API server itself."""
    unasked, asked = Cluster((OURS, CLUSTERS)), Cluster((CLUSTERS,))

    assert holder(text, unasked, takes_cluster_tokens=False) is None
    assert unasked.asked == []
    assert holder(text, asked, takes_cluster_tokens=True)
    assert asked.asked == [None]


def test_who_was_valid_before_waits_for_no_stranger() -> None:
    """Strangers fill their places for as long as they like; his new token is reviewed at once."""

    class Slow(Cluster):
        """Takes its time for all but one account."""

        async def review_token(self, token: SecretStr, audience: str | None) -> Body:
            if claims_in(token).sub != "u":
                await asyncio.Event().wait()
            return await super().review_token(token, audience)

    async def story() -> None:
        cluster: Any = Slow((OURS,))
        clock: Any = Still()
        reviews = TokenReviews(cluster, clock, believed_seconds=1, audience=OURS)
        assert await reviews.user_of(SecretStr(a_token({"aud": OURS, "sub": "u", "jti": 0})))
        strangers = [
            asyncio.create_task(reviews.user_of(SecretStr(a_token({"aud": OURS, "jti": n}))))
            for n in range(STRANGERS_AT_ONCE + STRANGERS_WAITING)
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            assert await reviews.user_of(SecretStr(a_token({"aud": OURS, "sub": "u", "jti": 1})))
        with pytest.raises(Problem):
            await reviews.user_of(SecretStr(a_token({"aud": OURS, "jti": 99})))
        for one in strangers:
            one.cancel()

    asyncio.run(story())


def test_an_answer_for_another_audience_is_no_answer() -> None:
    """An authenticator that ignores audiences says yes to anything (KEP-1205)."""

    class Careless(Cluster):
        async def review_token(self, _: SecretStr, audience: str | None) -> Body:
            return {"authenticated": True, "user": {"username": "u"}}

    assert holder(a_token({"aud": OURS}), Careless(()), takes_cluster_tokens=True) is None
