"""Rolling a release over a fleet: who decides what.

``policy``, ``plan`` and ``events`` are pure: they get observations, events and
the time, and return decisions. ``journal`` and ``lease`` persist; ``gates``
looks at a host over mutual TLS. ``steps`` puts them together for one host and
knows neither Ansible nor SSH: whoever runs it hands in a way to run
``hedgerow-device`` there. ``playbooks/rollout.yml`` is that mechanism.
"""
