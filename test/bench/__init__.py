"""Measurements against baselines that run on the same server in the same run; see docs/performance.md."""
