"""Measuring: time, memory and energy, on a machine that is never quite quiet."""
