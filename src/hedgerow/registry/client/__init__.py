"""The device's side of trust: a view of the registry in which every release has two who vouch for it."""
