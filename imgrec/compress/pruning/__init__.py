"""Pruning: masks, channels, importance scores, schedules."""
