"""Reading and writing files safely; what all kinds of files have in common."""
