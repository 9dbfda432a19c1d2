"""Per-layer proof of merge equivalence: the verdict over modules, and the check of a model in memory."""
