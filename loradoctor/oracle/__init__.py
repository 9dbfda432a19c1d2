"""The torch side: asks the installed PEFT, in a child process of the user's interpreter.

Everything in this package imports only itself, the standard library, torch, safetensors, transformers and peft, so that it
runs under an interpreter that has never heard of loradoctor. It speaks plain JSON; see ``session.py``.
"""
