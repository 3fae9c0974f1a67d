"""A device that keeps its own identity: renews at its gateway, tries before it switches, fetches revocation lists.

``config`` is what device.yml says of it · ``due`` decides when, purely · ``renewal`` does it · ``revocation`` fetches
the list · ``cli`` is ``hedgerow-device identity``. Keys, folder and handshake are ``hedgerow.identity.keys_device``.
"""
