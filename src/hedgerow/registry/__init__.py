"""Bundles and the signed registry: what a model is, who vouches for it, how it reaches a device."""
