"""How steps run: devices, memory, processes, compilation, and going on after an interruption."""
