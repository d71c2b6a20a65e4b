"""Quantizers and evaluation, data, recording, run directories."""
