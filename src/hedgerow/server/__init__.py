"""The inference server: one transport-free data plane, thin protocol adapters, pluggable backends.

| module | concern |
|---|---|
| `config` | what `/etc/hedgerow/server.yml` may say |
| `dataplane` | all behaviour: models, inference, generation, swap |
| `models`, `loading`, `golden` | one loaded model and its slot; loading it; golden inputs, answered before a switch |
| `backends/` | ONNX Runtime, onnxruntime-genai; one small interface |
| `scheduler`, `stop` | several generations sharing one model, a token each in turn; stop texts |
| `drain` | no new requests for a while, always bounded |
| `workers` | a bounded pool for tensor models |
| `tensors`, `inference`, `classification` | tensors as JSON and as bytes; a request for them; best classes |
| `modelconfig` | a model's configuration |
| `protocols/` | Open Inference Protocol v2, OpenAI chat, health, control: HTTP in and out, no behaviour |
| `access`, `tls` | who may call which route; mutual TLS |
| `recording`, `statistics`, `metrics`, `observe`, `restarts` | what it reports of itself |
| `run`, `sockets`, `connection`, `intake`, `systemd`, `repository` | one process: sockets, signals, bounds, readiness |
"""
