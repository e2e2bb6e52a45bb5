"""Latency tables of a device, and predictors that learn from them."""
