"""The network as one captured graph, and the passes over it."""
