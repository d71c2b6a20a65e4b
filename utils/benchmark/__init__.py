"""Costs: time, throughput, operations and bytes of an iteration."""
