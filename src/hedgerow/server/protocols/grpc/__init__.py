"""Open Inference Protocol v2 over gRPC.

Both settings are read when the library is imported, so this package makes them before it imports it. A server looks up
no names, and its sandbox lets it read none of the files that gRPC's own resolver wants. And whoever fails a handshake
must not fill the journal.
"""

import os

os.environ.setdefault("GRPC_DNS_RESOLVER", "native")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
