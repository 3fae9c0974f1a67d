"""What tests of several folders share: each module is imported by its own name (``tests/conftest.py``)."""
