"""SSH of a fleet by certificates: who may log in where, for how long, and how a host proves that it is itself.

``var/fleets/<fleet>/ssh-ca/`` on the controller holds it (``authority.SshAuthority``):

- ``authority.json`` and ``keys/``: the user CA and the host CA, each with the keys that are trusted and the one that
  signs (``generations``). Private keys are encrypted files or on a PKCS#11 token (``keygen``).
- ``issued.jsonl``: one line a certificate, revocation and rotation, hash-chained (``events``), on disk before a
  certificate leaves.
- ``trust/``: what hosts get, public and made from the rest: CA keys, revocation list, break-glass key.

An operator proves with the fleet's X.509 certificate who asks (``proof``); the inventory says who may have which role
where (``policy``). What a role is on a host is one table (``roles``), which the certificates, the hosts' files
(``on_host``) and the operators' ssh_config (``client_config``) are made from.
"""
