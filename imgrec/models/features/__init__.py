"""Feature maps and stages of a backbone."""
