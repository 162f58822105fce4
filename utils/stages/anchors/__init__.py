"""Published values, and what a sweep has beside them (`python -m utils.anchors`)."""
