"""Program 1, the controller: it watches, rents, destroys, and holds the account's key.

The way of its data:

    API server ──▶ watch (kopf) ──▶ cache ──▶ workqueue ──▶ reconcile
    provider ──▶ market_watch (listings, quotes) ───────────▶   │   observation of this moment
    driver pod ──▶ transport (its last report) ─────────────▶   │
                                                                ▼
                        core/job/plan, core/node/plan: status, effects, when to look again
                                                                │
    API server ◀── the status, on the very version it was planned from ──┘ then the effects:
    a driver pod, a key, the one rent request, a destroy, a finalizer

Only the replica that holds the leader lock (`leader_lock`) does this; `lead` wires it. Beside it,
on its own thread, `sweep` destroys machines that no live GpuNode owns. Where a module here has the
name of one in `core`, that one decides and this one acts.
"""
