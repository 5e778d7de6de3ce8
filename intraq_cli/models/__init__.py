"""From what the user typed to a float network."""
