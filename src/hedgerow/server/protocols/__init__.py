"""Protocol adapters: HTTP in and out. Each module has ``routes(plane)``; behaviour stands in ``dataplane``."""
