"""Merging from file to file."""
