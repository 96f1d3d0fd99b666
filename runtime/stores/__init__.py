"""Documents and measurements. Begin with `base.py` (the contracts), then `writer.py` (how a document is saved)."""
