"""The inference server: one transport-free data plane, thin protocol adapters, pluggable backends.

| module | concern |
|---|---|
| `config` | what `/etc/hedgerow/server.yml` may say |
| `dataplane` | all behaviour: models, inference, generation, swap |
| `models` | one loaded model and the slot that it is served from |
| `backends/` | ONNX Runtime, onnxruntime-genai; one small interface |
| `golden` | golden inputs, answered before a switch |
| `scheduler` | several generations sharing one model, a token each in turn |
| `protocols/` | Open Inference Protocol v2, OpenAI chat, health, control: HTTP in and out, no behaviour |
| `access`, `tls` | who may call which route; mutual TLS |
| `observe`, `statistics`, `metrics` | what it reports of itself |
| `run` | sockets, signals, one process |
"""
