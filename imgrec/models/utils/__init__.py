"""Functions on modules: hooks, modes, statistics, layer selection, compilation."""
