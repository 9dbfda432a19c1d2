"""Files of weights and where they come from: a directory, the local cache, the hub."""
