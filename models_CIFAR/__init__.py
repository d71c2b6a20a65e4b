"""Nets for 32x32 images: plain architectures, and the names by which the notebook knows the quantized CIFAR ResNets."""
