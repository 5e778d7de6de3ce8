"""The checkpoint folder: written, read, packed."""
