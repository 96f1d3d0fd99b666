"""The parts of `GRPCDriver`: `call.py` is the way of one call."""
