"""A Vast.ai simulator: a pure market model, a real HTTP server, machines that really run.

What it knows about the provider is in FACTS.md. It shares no code with the operator, so that it
does not share the operator's misunderstandings.

The way of a request: `server` reads it, `faults` may strike it, `market` changes (offers, leases
and their histories), `machines` starts or ends the process of a `machine`, and `wire` writes the
answer. `ledger` works out what each lease has cost from the lease's history.
"""
