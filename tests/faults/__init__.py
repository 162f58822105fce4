"""What goes wrong on real machines, done to each stage as a user runs it (docs/reliability.md)."""
