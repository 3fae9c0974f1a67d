"""Build bundles from checkpoints: read, quantize, write the graph, prove it by a golden run.

Runs on the build side alone (the ``convert`` extra); devices get finished bundles.
"""
