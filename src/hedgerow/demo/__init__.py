"""The demo: from nothing to a serving fleet, by the commands an operator would type.

``steps`` says what is done and in which order, ``runner`` runs it: long builds
beside each other in the background, everything else in view.
"""
