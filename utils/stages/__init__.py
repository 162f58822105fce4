"""One folder for each stage; the work of run_X.py is utils/stages/X/stage.py."""
