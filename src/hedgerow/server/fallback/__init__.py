"""Text requests that a cloud endpoint answers instead of the device, where the model's policy lets them leave.

Invariants:

- Nothing leaves the site unless ``privacy`` of the model's policy says so, and never what asks for the device alone.
- What a request may cost is written down before it is sent, and what left has one audit line, also after a crash.
- Until the endpoint's first piece the caller can still get the device's own answer, and keeps his place in its queue.

| module | concern |
|---|---|
| `config` | what `fallback` in `server.yml` may say |
| `decision` | whether a request should leave: pure |
| `breaker`, `rate` | when an endpoint is left alone: pure |
| `scrub` | a request without personal data and secrets: pure |
| `wire` | OpenAI's shapes: what is sent, and the pieces of what comes back |
| `endpoint` | HTTPS with mutual TLS and a bearer token |
| `keys`, `cache`, `database` | a key made on the device; answers kept under it; their file |
| `ledger`, `audit` | what was spent within the hour; what left |
| `admission`, `settlement` | whether one may be sent just now; what is written down of it |
| `remote`, `tasks` | an answer from elsewhere: all of the above, in order |
| `route`, `own` | a model's way out, beside the device's own answer |
| `service` | the routes of one server, opened and closed together |
"""
