"""Evaluates a network against its float teacher, on data with and without labels."""
