"""Clients of a listener that are known by their certificates, and what is said of all others."""

import ssl
from collections.abc import Mapping
from typing import Any

import structlog

from gpujob.adapters.clock import Clock
from gpujob.web.rate_limit import RateLimit

TOLD_AT_ONCE, TOLD_PER_SECOND = 5, 1 / 60
"""How often the log tells of one kind of stranger: anybody who can connect can be one."""
SHOWN_CHARACTERS_MAX = 100
"""Of a stranger's name."""

log = structlog.get_logger("gpujob.listener")


class ClientCertificates:
    """The clients that a listener lets in: known to an authority, under one of these names.

    The name is the common name alone, by which Kubernetes knows its users, too: whoever approves
    a certificate of the cluster's authority has looked at that name, and not at alternative ones.
    """

    def __init__(self, clock: Clock, *, authorities: str, names: frozenset[str]) -> None:
        self._authorities, self._names = authorities, names
        self._told = RateLimit(clock, per_second=TOLD_PER_SECOND, at_once=TOLD_AT_ONCE)

    def demanded_by(self, context: ssl.SSLContext) -> None:
        """Has a server's context refuse every client without a certificate of the authority."""
        context.load_verify_locations(cadata=self._authorities)
        context.verify_mode = ssl.CERT_REQUIRED
        # The authority that is named is believed, also if another one has signed it.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN

    def lets_in(self, certificate: Mapping[str, Any] | None, address: str) -> bool:
        """Whether a client may send requests, once its certificate is known to be good.

        A certificate as `ssl.SSLSocket.getpeercert` returns it.
        """
        subject = (certificate or {}).get("subject", ())
        names = [text for part in subject for kind, text in part if kind == "commonName"]
        # With several names, it would depend on the reader which one is meant.
        if len(names) == 1 and names[0] in self._names:
            return True
        shown = repr(names)[:SHOWN_CHARACTERS_MAX]
        self._tell("no name that may call", address, f"its common name is one of {shown}")
        return False

    def tell_of(self, error: OSError, address: str) -> None:
        """Says in the log why a handshake has failed, if it was for the client's certificate."""
        if isinstance(error, ssl.SSLCertVerificationError):
            words = f"its certificate is not good: {error.verify_message}"
            self._tell(error.verify_message, address, words)
        elif isinstance(error, ssl.SSLError) and error.reason == NONE_SHOWN:
            self._tell(NONE_SHOWN, address, "it shows no certificate")

    def _tell(self, kind: str, address: str, problem: str) -> None:
        if not self._told.take(kind):
            log.warning(
                "client_refused",
                address=address,
                problem=problem,
                allowed=sorted(self._names),
                remedy="see 'A certificate of the API server' in the chart's README",
            )


NONE_SHOWN = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
