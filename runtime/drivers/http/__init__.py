"""The parts of `FastAPIDriver`: `app.py` has the routes."""
