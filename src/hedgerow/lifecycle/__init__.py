"""How boards come into a fleet, are exchanged and leave it.

``wipe`` and ``survey`` run on devices and import the standard library alone. ``decommission``, ``replacement`` and
``adoption`` decide without IO; ``record`` keeps what was done.
"""
