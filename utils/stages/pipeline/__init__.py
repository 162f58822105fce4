"""All stages for every K (run_pipeline.py)."""
