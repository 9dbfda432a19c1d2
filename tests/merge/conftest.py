from tests.oracle.conftest import base, examine, good, in_process

__all__ = ["base", "examine", "good", "in_process"]
