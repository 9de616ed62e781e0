"""Studies: planned sets of run folders. A study reads and writes only run folders."""
