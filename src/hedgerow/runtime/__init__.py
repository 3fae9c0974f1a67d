"""The runtime that devices install: wheels for their Python and architecture, packed here, installed there.

``target`` says what a device can run, ``lock`` what it needs, ``extras`` what a
fleet may add to that, ``version`` names the result by its content, ``wheelhouse``
builds it, and ``install`` (standard library alone) travels to the device and puts
it in place.
"""
