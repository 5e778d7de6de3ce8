"""Quantizers, and the network that runs with them."""
