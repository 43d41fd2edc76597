"""Stand-ins at the network's edge: real servers that speak the real protocol."""
