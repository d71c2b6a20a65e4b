"""Meta layers, meta networks, optimizees and the training loop of MetaQuant."""
