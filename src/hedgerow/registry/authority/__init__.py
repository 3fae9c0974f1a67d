"""The operator's side of trust: keys, roles, ceremonies and the promotion log of one stage of a fleet."""
