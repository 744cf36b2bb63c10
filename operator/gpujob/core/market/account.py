"""Whether the account behind the key is the right one, and has credit to rent with."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from gpujob.api.gpunode import GpuNode

REFUSAL_SECONDS = 300.0
"""A refusal for lack of credit counts for this long, or until there is more credit: the provider
does not document the least credit that it requires."""


@dataclass(frozen=True)
class CreditRefusal:
    """A rent request that was refused for lack of credit."""

    at: float
    """Monotonic time."""
    credit_usd: Fraction | None
    """The account's credit in the latest listing before the refusal."""


def credit_problem(
    credit_usd: Fraction | None, refusal: CreditRefusal | None, monotonic: float
) -> str | None:
    """Returns why nothing can be rented on this credit; None = it can, or the credit is unknown."""
    if credit_usd is not None and credit_usd <= 0:
        return f"the credit of the provider account is ${float(credit_usd):.2f}; add credit"
    if refusal is None or monotonic - refusal.at >= REFUSAL_SECONDS:
        return None
    before = refusal.credit_usd
    if credit_usd is not None and before is not None and credit_usd > before:
        return None
    shown = "" if credit_usd is None else f" of ${float(credit_usd):.2f}"
    words = "the provider refused a rent request for lack of credit"
    return f"{words}; add to the account's credit{shown}"


def account_problem(nodes: Iterable[GpuNode], account_id: int) -> str | None:
    """Returns which machines were rented by another account than the present key's, or None.

    Listings of the present account do not show them, so they count as leased until the other
    account's key is back.
    """
    strange = sorted(
        f"{node.metadata.namespace}/{node.metadata.name} (account {node.status.rent.account_id})"
        for node in nodes
        if node.status.may_cost
        and node.status.rent is not None
        and node.status.rent.account_id != account_id
    )
    if not strange:
        return None
    more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
    return (
        f"the API key now belongs to account {account_id}, but another account rented these "
        f"GpuNodes: {', '.join(strange[:3])}{more}; put its key back, or destroy these machines by "
        "hand and then remove the finalizers of their GpuNodes and GpuJobs"
    )
