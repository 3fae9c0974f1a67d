"""What the server tells of the requests that it answered: log lines, traces, kept samples (docs/telemetry.md).

A request is described once, when it has ended (``finished``); everything here reads that. Nothing here waits for a
network or a disk on the event loop: what does has a bounded queue and a thread, and counts what it drops.

| module | concern |
|---|---|
| `config` | what `telemetry` in `/etc/hedgerow/server.yml` may say |
| `caller`, `tracecontext` | who asks, under which request id and trace |
| `door` | where that is read from HTTP, and where refusals that no model saw are noticed |
| `finished` | a finished request, and whether it was slow or failed |
| `queues` | a bounded queue and its thread |
| `traces`, `spans`, `otlp` | which traces leave; their spans; OTLP over HTTP |
| `logs` | lines of JSON without what people wrote |
| `sampling`, `samples` | which answers are kept for quality's sake; the folder they are kept in |
| `service` | all of it put together for one server |
"""
