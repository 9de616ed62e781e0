"""Sources that wrap another source: subset, concatenation, label noise, long tail, corrections, class mapping."""
