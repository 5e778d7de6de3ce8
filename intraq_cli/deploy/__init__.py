"""Files that other runtimes run, with the proof that they compute what the checkpoint does."""
