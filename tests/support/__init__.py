"""What tests of several folders share; ``tests/conftest.py`` makes each module importable by its own name."""
