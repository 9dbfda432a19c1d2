"""The symbolic executor: runs a lowered module over abstract values and records what every call saw."""
