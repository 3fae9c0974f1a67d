"""The renewal service: devices of a site get their next certificate from their gateway, with the controller away.

``config`` is what the controller places, ``rules`` decides (pure), ``history`` remembers on disk, ``service`` puts
them and the site's issuing CA together, ``app`` is its HTTP side and ``run`` the process. docs/device-identity.md,
"Renewal at the gateway", has the protocol.
"""
