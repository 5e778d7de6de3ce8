"""A run, whatever verb asks for it: the stages in their order, what they are given, and what is written of them."""
