"""Every way the catalogue knows to break a PEFT checkpoint, made anew with tiny models."""

import sys
from pathlib import Path

# The builders of the fixtures lie outside any package.
sys.path.insert(0, str(Path(__file__).parents[2] / "fixtures"))
