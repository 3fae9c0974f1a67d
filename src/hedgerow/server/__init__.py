"""The inference server: one transport-free data plane, thin protocol adapters, pluggable backends.

| module | concern |
|---|---|
| `config` | what `/etc/hedgerow/server.yml` may say |
| `dataplane` | all behaviour, for adapters to call: what is served, requests, who does what |
| `swapping` | a device's model: a version prepared beside the one in service, the switch to it |
| `answering` | a text request: the device's own answer, or one from elsewhere |
| `checking`, `describing` | a tensor request held to what the model declares; what a model says of itself |
| `models`, `loading`, `golden` | one loaded model and its slot; loading it; golden inputs, answered before a switch |
| `computing` | with what: threads by what the process may have, execution providers; in which process |
| `backends/` | one small interface; ONNX Runtime, onnxruntime-genai, HailoRT, LiteRT, llama.cpp, other packages' own |
| `isolation/` | a model in a process of its own, behind the same interface |
| `scheduler`, `stop` | generations: a lane a model, a token each in turn; stop texts |
| `drain` | no new requests for a while, always bounded |
| `degradation`, `degrading` | how far to step down on a board under pressure; doing it |
| `workers`, `batching` | tensors: a lane a model; which requests run together |
| `tensors`, `inference`, `classification` | tensors as JSON and as bytes; a request for them; best classes |
| `repository`, `library` | a folder of models and their versions; loading and unloading them by name |
| `residency`, `residents`, `memory` | which of these stay loaded; what each takes, and how that is measured |
| `modelconfig`, `textproto`, `configuring` | a model's configuration, its text form, holding the model to it |
| `fallback/` | text requests that a cloud endpoint answers, where a policy lets them leave |
| `protocols/` | Open Inference Protocol v2, OpenAI chat, health, control: HTTP in and out, no behaviour |
| `access`, `clients`, `tls` | who may call which route; how much each client may ask; mutual TLS |
| `telemetry/`, `redaction` | log lines, traces and kept answers; personal data found by its shape |
| `recording`, `progress`, `statistics`, `modelstatistics`, `metrics`, `observe`, `restarts` | what it tells of itself |
| `run`, `sockets`, `connection`, `intake`, `systemd` | one process: sockets, signals, bounds, readiness |
"""
