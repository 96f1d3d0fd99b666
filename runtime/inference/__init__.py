"""A workflow driven from Python: `init`, and what it returns. `process.py` is the file to read first."""

from runtime.inference.process import InferenceProcess, Runtime, init

__all__ = ["InferenceProcess", "Runtime", "init"]
