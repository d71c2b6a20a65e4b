"""CIFAR ResNets: the architecture (resnet.py) and the same with quantized meta layers (quantized_meta_resnet.py)."""
