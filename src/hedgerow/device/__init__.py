"""What runs on a device beside the server: hardware, health, activation, exporter.

Importing this package costs nothing: a host without Hedgerow is read by
sending ``hardware.py`` alone.
"""
