"""Training loops for the tests of the loop."""

import torch

from meta_utils.install import install_quantizer, parameter_groups
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from utils.choices import META_NETWORKS
from utils.quantize import get_quantizer


def make_loop(net, method="STE", quantizer="dorefa", optimizee=None, meta_net=None, order="notebook", meta_lr=1e-2):
    if meta_net is None and method != "STE":
        meta_net = META_NETWORKS.load(method)(hidden_size=10).double()
    meta_optimizer = None if meta_net is None else torch.optim.Adam(meta_net.parameters(), lr=meta_lr)
    if isinstance(quantizer, str):
        quantizer = install_quantizer(net, get_quantizer(quantizer))
    optimizee = optimizee or SGD(parameter_groups(net), lr=0.05)
    return TrainingLoop(net, optimizee, quantizer, meta_net, meta_optimizer, order)


class Spy:
    """A quantizer that keeps every W' it is given, layer by layer."""

    def __init__(self, quantizer):
        self.quantizer, self.seen = quantizer, []

    def __getattr__(self, name):
        return getattr(self.quantizer, name)

    def preprocess(self, W, layout):
        self.W, self.layout = W, layout
        if W.requires_grad:
            W.retain_grad()
        self.seen = [W_used.clone() for W_used in layout.split(W.detach())]
        return self.quantizer.preprocess(W, layout)
