"""Looking at a fleet and speaking to it: every host over mutual TLS, by its own name."""
