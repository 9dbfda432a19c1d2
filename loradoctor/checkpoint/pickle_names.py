"""The names that occur in pickles: those of state dicts, those of attacks."""

from __future__ import annotations

STORAGES = {
    "FloatStorage": "F32", "DoubleStorage": "F64", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64", "UntypedStorage": "U8",
}  # fmt: skip
DTYPES = {
    "float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "complex64": "C64",
    "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip
HARMLESS = frozenset({("collections", "OrderedDict"), ("torch", "Size"), ("torch", "device"), ("_codecs", "encode")})
REBUILDERS = frozenset({"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_from_type_v2"})
DANGEROUS = frozenset(
    """
    posix nt os subprocess sys shutil socket runpy importlib pickle _pickle marshal ctypes code codeop pty platform
    webbrowser requests urllib multiprocessing commands pip pdb bdb timeit cProfile profile http ftplib smtplib
    telnetlib xmlrpc zipimport imp pkgutil pydoc
    """.split()
)
"""Top-level modules whose functions no saved model needs and an attack usually does."""
_PLAIN_BUILTINS = frozenset(
    "set frozenset dict list tuple int float str bytes bytearray bool slice complex object range long unicode".split()
)


def is_dangerous(name: str) -> bool:
    """Whether unpickling something that calls ``module.name`` could run anything at all."""
    module, _, attribute = name.partition(".")
    if module in ("builtins", "__builtin__"):
        return attribute not in _PLAIN_BUILTINS
    return module in DANGEROUS
