"""Checkpoint callbacks: best, last, exact resume, preemption."""
