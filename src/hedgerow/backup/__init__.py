"""Backup and restore of what a controller must not lose: keys, journals, metadata, pins, the inventory.

One file in two standard formats: a gzipped tar in age (c2sp.org/age), so that ``age -d FILE | tar xz`` opens it where
Hedgerow is not at hand. Nothing of it touches a disk unencrypted before it is restored.
"""
