"""Measuring a network against its teacher."""
