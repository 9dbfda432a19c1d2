"""The base as a phantom, and the adapter that PEFT loads onto it."""
