"""Loads the float network that the user's MODEL names."""
