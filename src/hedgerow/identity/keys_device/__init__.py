"""Keys on the device, and the folder they live in: what enrolment and renewal share.

Standard library and the ``openssl`` program alone: these modules travel to hosts with ``hedgerow.identity.enrol``
(``hedgerow.remote_script`` sends them along).

``tool`` runs programs · ``kinds`` are keys in files and in a TPM 2.0 · ``otp`` is the Pi's own key in one-time
programmable memory · ``folder`` is the layout on disk and its one switch · ``trial`` speaks TLS with a pair that is
not in service yet.
"""
