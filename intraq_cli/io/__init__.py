"""Files: written whole or not at all, read without trusting them, and told from each other."""
