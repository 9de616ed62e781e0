"""The soup study: average the weights of several runs."""
