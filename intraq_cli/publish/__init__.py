"""The public side of a checkpoint: its model card, and its repository on the Hub."""
