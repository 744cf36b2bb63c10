"""A Vast.ai simulator: a pure market model, a real HTTP server, machines that really run.

What it knows about the provider is in FACTS.md. It shares no code with the operator, so that it
does not share the operator's misunderstandings.

The way of a request: `server` takes it, one of `routes` reads it by means of `requests`, `faults`
may strike it, `market` changes (offers, leases and their histories), `machines` starts or ends the
processes of a machine, and `wire` writes the answer. `ledger` works out what each lease has cost
from the lease's history.
"""
