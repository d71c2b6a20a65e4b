"""Training loops for the tests of the loop, and iterations with one of them, eager or captured."""

from functools import partial

import torch
import torch.nn.functional as F

from meta_utils.adam import Adam
from meta_utils.install import install_quantizer, parameter_groups
from meta_utils.iterations import Iterations
from meta_utils.metaquantize import metaquantize
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from models_CIFAR.resnet import ResNet
from utils.batches import ImageSet, ResidentLoader
from utils.choices import ESTIMATORS, META_NETWORKS, OPTIMIZEES, PROXIMAL
from utils.quantize import get_quantizer
from utils.schedules import Schedule, scale_rates

PUBLISHED = ["dorefa", "BWN", "BWN-F"]  # quantizers

CASES = [  # method, quantizer, optimizee, order, options of M or of the loop
    ("STE", "dorefa", "SGD-M", "notebook", {}),
    ("FC-Grad", "BWN", "Adam", "notebook", {"use_nonlinear": "relu"}),
    ("MultiFC", "dorefa", "Adam", "notebook", {}),
    ("MultiFC", "BWN-F", "SGD", "paper", {"use_nonlinear": "tanh", "hidden_size": 3}),
    ("LSTMFC", "dorefa", "SGD", "notebook", {"hidden_size": 2}),
    ("STE-identity", "BWN", "SGD", "notebook", {}),
    ("ApproxSign", "BWN-F", "Adam", "notebook", {}),
    ("EDE", "dorefa", "SGD-M", "notebook", {}),
    ("EDE", "BWN-F", "SGD", "notebook", {}),
    ("ReSTE", "BWN", "SGD", "notebook", {}),
    ("EWGS", "dorefa", "SGD", "notebook", {}),
    ("BinaryRelax", "BWN", "SGD", "notebook", {}),
    ("ProxQuant", "dorefa", "SGD-M", "notebook", {}),
    ("FC-Grad", "dorefa", "SGD", "paper", {"clip": 0.5}),
]
WITH_PARAMETERS = [("STE", "LSQ", "SGD-M", "notebook", {}), ("MultiFC", "TTQ", "Adam", "paper", {})]  # of the quantizer's own
BATCH, IMAGES = 4, 14  # an epoch's batches: 4, 4, 4, 2
TOTAL = 20  # iterations of 5 epochs
COSINE, SCHEDULED_EPOCHS = Schedule("cosine", warmup=1), 3


def make_loop(net, method="STE", quantizer="dorefa", optimizee=None, meta_net=None, order="notebook", meta_lr=1e-2):
    if meta_net is None and method != "STE":
        meta_net = META_NETWORKS.load(method)(hidden_size=10).double()
    meta_optimizer = None if meta_net is None else torch.optim.Adam(meta_net.parameters(), lr=meta_lr)
    if isinstance(quantizer, str):
        quantizer = install_quantizer(net, get_quantizer(quantizer))
    optimizee = optimizee or SGD(parameter_groups(net), lr=0.05)
    return TrainingLoop(net, optimizee, quantizer, meta_net, meta_optimizer, order)


def one_iteration(net, batch, quantizer):
    """Leaves autograd's gradients of the loss in the net."""
    net.zero_grad()
    F.cross_entropy(net(batch[0], quantizer), batch[1]).backward()


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


def case_id(case):
    return "-".join(case[:4])


def iterations(case, graphs=None, device="cpu", dtype=torch.float64, autocast=None):
    """Iterations of one of the cases, captured by `graphs` where there are some, on 14 random images."""
    method, quantizer, optimizer, order, options = case
    torch.manual_seed(0)
    net = metaquantize(ResNet(20 if device == "cuda" else 8), autocast=autocast)
    net = net.to(device, dtype, memory_format=torch.channels_last)
    quantizer = install_quantizer(net, get_quantizer(quantizer, 2 if quantizer == "LSQ" else None))
    optimizee = OPTIMIZEES[optimizer].build(parameter_groups(net, quantizer_lr=1e-2), lr=1e-3, weight_decay=1e-4)
    options = dict(options)
    how = {"update_order": order, "iterations": TOTAL, "clip": options.pop("clip", None)}
    if method in META_NETWORKS:
        meta_net = META_NETWORKS.load(method)(**options).to(device, dtype)
        meta_net.product_dtype = autocast
        how |= {"meta_net": meta_net, "meta_optimizer": Adam(meta_net.parameters(), lr=1e-3, bias_corrected_eps=True)}
    elif method in ESTIMATORS:
        how["estimator"] = ESTIMATORS.load(method)
    else:
        how |= {"after_step": [PROXIMAL.load(method)(quantizer, strength=50.0)], "quantized_forward": False}
    loop = TrainingLoop(net, optimizee, quantizer, **how)
    images = torch.randint(256, (IMAGES, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image_set = ImageSet(images, torch.arange(IMAGES) % 10, 10, (0.5,) * 3, (0.5,) * 3)
    loader = ResidentLoader(image_set, "train", BATCH, device=device)
    take = loader.take
    loader.take = lambda count: tuple(x.to(dtype) if x.is_floating_point() else x for x in take(count))
    return Iterations(loop, loader, graphs)


def scheduled(case, schedule, graphs=None, on_device=True, **where):
    """Iterations whose alpha and gamma follow a schedule over 3 epochs of 4; on_device: and are read from the device."""
    work = iterations(case, graphs, **where)
    work._set_rates = partial(_follow, schedule, work)
    if on_device:
        work.loop.use_device_rates()
    return work


def _follow(schedule, work, iteration):
    """What `Iterations` calls before each iteration."""
    factor = schedule.factor(iteration, per_epoch=4, epochs=SCHEDULED_EPOCHS)
    scale_rates((work.loop.optimizee, work.loop.meta_optimizer), factor)


def train(work, epochs=5, drop_after=3, group=0):
    """The measured loss and accuracy of every iteration, with a drop of the learning rate on the way."""
    found = []
    for epoch in range(epochs):
        for size in work.begin(epoch):
            work.run(size)
        found += work.read()
        if epoch + 1 == drop_after:
            work.loop.optimizee.param_groups[group]["lr"] = 1e-4
    return found


def train_scheduled(work):
    """The same of iterations that follow a schedule, over its 3 epochs."""
    return train(work, SCHEDULED_EPOCHS, drop_after=None)


def numbers(work):
    """The tensors of a loop's state: of the net, the gradients, the layers and M."""
    state = work.loop.state_dict()
    return [state[name] for name in ("net", "gradients", "layers", "meta_net", "meta_hidden_state_dict")]
