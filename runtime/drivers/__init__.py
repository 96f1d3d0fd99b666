"""Drivers: processes that join a workflow to the outside. `base.py` holds the contracts."""
