"""From a config to a run folder: fit, evaluate, resume."""
