"""From the command line to a stage: parsing, help, errors, progress, signals, launchers."""
