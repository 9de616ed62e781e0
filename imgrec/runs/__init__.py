"""Run folders: the complete record of a run, in open formats."""
