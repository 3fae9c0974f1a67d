"""The fleet's CA in two tiers: an offline root, issuing CAs below it, their revocation lists, and rotation.

``hedgerow.identity.ca.FleetCA`` is the single-tier form, which a small fleet starts with. Here are:

- ``build``: the certificates of roots and issuing CAs (pure).
- ``keys``: where a CA's private key is: an encrypted file, one on a removable medium, or a PKCS#11 token.
- ``root``, ``issuing``: the two tiers. ``IssuingCA`` is what a gateway opens, too.
- ``admission``: who may get a certificate at all, whichever CA would sign it.
- ``crl`` (pure), ``lists``: revocation lists, and keeping them current.
- ``generations``, ``rotation``: which root is the active one, and the way from one to the next.
- ``opening``: the issuer that a site, or the fleet's people, have now.
- ``est``: an authority elsewhere, over EST (RFC 7030).

docs/identity.md tells operators; docs/decisions/0044-two-tier-ca.md says why.
"""
