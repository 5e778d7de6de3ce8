"""What others see of a checkpoint: its card, and its repository on the Hub."""
