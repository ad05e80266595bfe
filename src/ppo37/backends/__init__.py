"""Backends: how and where the network and the loop's functions are computed."""
