"""Program 1, the controller: it watches objects, rents and destroys machines, and holds the key.

How data flows through it:

    API server ──▶ watch (kopf) ──▶ cache ──▶ workqueue ──▶ reconcile
    provider ──▶ market_watch (listings, quotes) ───────────▶   │   observation of this moment
    driver pod ──▶ transport (its last report) ─────────────▶   │
                                                                ▼
                        core/job/plan, core/node/plan: status, effects, when to look again
                                                                │
    API server ◀── the status, on the version that it was planned from ──┘ then the effects:
    a driver pod, a key, the one rent request, a destroy, a finalizer

Only the replica that holds the leader lock (`leader_lock`) does this; `lead` wires it together. Two
threads do not wait for the passes: in one, `sweep` destroys machines that no live GpuNode owns, in
the other, `lock_thread` renews the lock. Where a module here and one in `core` have the same name,
the one in `core` decides and the one here acts.
"""
