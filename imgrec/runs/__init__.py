"""The run folder: everything that one run was and said, in open formats."""
