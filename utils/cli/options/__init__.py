"""The options of every stage, one file for each group of stages."""
