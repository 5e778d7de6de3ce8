"""Files for other runtimes, and the check that they compute the same as the checkpoint."""
