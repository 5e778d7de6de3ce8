"""The checkpoint folder: layout, writing and reading."""
