"""PEFT checkpoints: what they hold, what is wrong with them, what they do to their base model."""
