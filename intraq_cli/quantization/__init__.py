"""Quantizers, and a network that runs with them."""
