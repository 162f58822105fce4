"""The circle in the plane (toy_example.py)."""
