"""The server: answers the API server's admission reviews, and serves the HTTP API if it is enabled.

It is stateless, runs in any number of replicas, and holds no account key. Two ways lead through it:

- A review of a GpuJob: the API server posts an AdmissionReview to `admission`, over TLS with the
  certificate that `tls` reads from a Secret. `core.admission` checks the spec against the market
  data that the controller has published (`adapters.market_notes`). The verdict goes back.
- A request to the HTTP API: `http_api.guard` finds the caller by the token (`http_api.callers`) and
  counts the requests. One of the routers (`jobs`, `estimates`, `streams`, `machines`) asks whether
  the caller may do this, and then the API server; estimates are asked of the controller. Nothing is
  stored here. A failure becomes a problem: `http_api.failures` says which, `web.problems` sends it.
"""
