"""How a bundle's bytes travel: cut into chunks, kept in packs, patched against older versions.

``recipe`` says where every byte of a version lies; ``layouts`` and ``chunking`` cut files, ``packs`` holds what was
cut, ``matching`` and ``patches`` say a version in terms of an older one. Both sides use this package: a device installs
it, so nothing here imports more than NumPy, zstandard and msgspec. docs/transfer.md describes the format.
"""
