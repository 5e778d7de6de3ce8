"""How steps run: devices, memory, processes, compilation, and resuming after an interruption."""
