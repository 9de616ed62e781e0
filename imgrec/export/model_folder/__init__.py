"""The model folder: weights, config and model card in open formats."""
