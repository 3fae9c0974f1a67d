"""Stand-in packages and the signed archive that emulated hosts install them from."""
