"""LD80x: what merging an adapter into its base would do."""
