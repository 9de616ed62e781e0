"""Training, evaluation and resumption of experiments: from a config to a run folder."""
