"""Versions of bundles on this device: fetched in deltas, kept by use, collected without risk.

``stage`` brings a version here, ``planner`` decides from what each of its bytes is made, ``receive`` and ``assemble``
carry that out, ``collect`` removes what nobody needs. docs/device-store.md tells the whole.
"""
