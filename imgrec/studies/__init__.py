"""Run folders that are made on purpose: a study reads run folders and writes run folders, and nothing else."""
