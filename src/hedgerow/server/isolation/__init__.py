"""A model in a process of its own, behind the same interface as one in the server's process.

- ``nursery``: a process forked before there is anything to inherit, which forks one for each model;
- ``worker``: what runs in a model's process;
- ``wire``: what it and the server say to each other;
- ``process``: the server's side of one process;
- ``backend``: the backends made of it, and their supervision.

Why, at what price, and why it is off by default: docs/decisions/0059-a-process-for-a-model.md.
"""
