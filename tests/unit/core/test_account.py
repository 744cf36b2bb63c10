"""Whose account it is, and whether it has credit."""

from fractions import Fraction

import pytest
from tests.builders import ACCOUNT, a_node, ended, leased, marker, renting, stamp

from gpujob.core.market.account import (
    REFUSAL_SECONDS,
    CreditRefusal,
    account_problem,
    credit_problem,
)

TWO = Fraction(2)


@pytest.mark.parametrize(
    ("credit", "refusal", "words"),
    [
        (TWO, None, None),
        (None, None, None),
        (Fraction(0), None, "$0.00"),
        (Fraction("-0.5"), None, "$-0.50"),
        (TWO, CreditRefusal(95.0, TWO), "of $2.00"),
        (None, CreditRefusal(95.0, None), "lack of credit"),
        (Fraction(12), CreditRefusal(95.0, TWO), None),
        (Fraction(1), CreditRefusal(95.0, TWO), "of $1.00"),
        (TWO, CreditRefusal(100.0 - REFUSAL_SECONDS, TWO), None),
    ],
)
def test_credit(credit: Fraction | None, refusal: CreditRefusal | None, words: str | None) -> None:
    """None left, or a refusal, until there is more or the refusal is old."""
    problem = credit_problem(credit, refusal, 100.0)

    assert (problem is None) if words is None else (words in (problem or ""))


def test_what_another_account_rented_is_told() -> None:
    """With the machine's node, the account, and what to do."""
    problem = account_problem([a_node(leased())], ACCOUNT + 1) or ""

    assert f"train-0-1 (account {ACCOUNT})" in problem
    assert "put its key back" in problem


@pytest.mark.parametrize(
    ("status", "account"),
    [
        (leased(), ACCOUNT),
        (None, ACCOUNT + 1),
        (renting() | {"notRented": {"at": stamp(), "reason": "OfferGone"}}, ACCOUNT + 1),
        (ended(leased()) | {"releasedAt": stamp()}, ACCOUNT + 1),
        (renting() | {"rent": marker(accountID=ACCOUNT)}, ACCOUNT),
    ],
)
def test_what_is_not_leased_or_ours_is_no_problem(status: object, account: int) -> None:
    """Nothing rented, nothing owed, or the same account."""
    assert account_problem([a_node(status)], account) is None  # type: ignore[arg-type]
