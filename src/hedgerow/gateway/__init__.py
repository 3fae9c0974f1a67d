"""What a gateway does for the devices of its site beside serving the registry."""
