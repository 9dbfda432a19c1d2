"""A doctor for LoRA and every other PEFT method."""

__version__ = "0.1.0"
