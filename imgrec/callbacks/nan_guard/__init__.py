"""The NaNGuard callback: stop when the loss or weights become non-finite, and report the first affected layer."""
