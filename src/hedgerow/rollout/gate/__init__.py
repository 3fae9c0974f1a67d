"""The gate: whether a host that got a release may keep it.

``judge`` is pure; ``watcher`` looks at a host over mutual TLS; ``probe`` puts
the release's own questions.
"""
