"""Merged against unmerged, layer by layer."""
