"""One file per rule about adapter checkpoints."""
