"""CIFAR nets: plain architectures, and the names by which the notebook knows the quantized ones."""
