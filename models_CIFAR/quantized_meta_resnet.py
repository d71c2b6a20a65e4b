"""The CIFAR ResNets with every layer quantized and open to a learned gradient.

The architecture is models_CIFAR/resnet.py's; only the layer types differ. State dicts of a plain net load strictly.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.profiler import record_function

from meta_utils.meta_gradients import NO_META_GRADIENTS
from meta_utils.meta_quantized_module import MetaConv2d, MetaLayers, MetaLinear, MetaQuantizedLayer
from meta_utils.optimizee import Rates
from models_CIFAR.resnet import ResNet
from utils.quantize import Quantizer, get_quantizer


class QuantizedMetaResNet(ResNet):
    """A CIFAR ResNet whose convolutions and classifier are meta layers.

    `layer_name_list` holds one entry per meta layer, in the order of the modules: (dotted name, path for get_layer).
    It is derived from the modules, so it cannot miss a layer.
    """

    def __init__(self, depth: int, bitW: int = 1, num_classes: int = 10):
        super().__init__(depth, num_classes, conv=MetaConv2d, linear=MetaLinear)
        self.bitW = bitW
        named = {name: module for name, module in self.named_modules() if isinstance(module, MetaQuantizedLayer)}
        self.meta = MetaLayers(named)
        self.layer_name_list = [(name, tuple(name.split("."))) for name in named]

    def meta_layers(self) -> list[MetaQuantizedLayer]:
        """The meta layers in the order of `layer_name_list`."""
        return self.meta.layers

    @record_function("forward")
    def forward(
        self,
        inputs: Tensor,
        quantized_type: str | Quantizer | None = None,
        meta_grad_dict: Mapping[str, tuple] = NO_META_GRADIENTS,
        lr: Rates = 1e-3,
    ) -> Tensor:
        """Images (B, 3, 32, 32) -> logits (B, num_classes).

        quantized_type: a quantizer or its registered name (at `bitW` bits); None computes with the full-precision weights.
        meta_grad_dict: layer name -> (path, g_W_tilde, bias gradient or None) for all meta layers or none, from
            meta_gradient_generation; the layers compute with their updated weights W' (step 3 of the loop), with a graph to phi.
        lr: alpha, the step from W to W'; or parameter -> its own alpha.
        """
        quantizer = get_quantizer(quantized_type, self.bitW)
        self.meta.prepare(quantizer, meta_grad_dict, lr, training=self.training and torch.is_grad_enabled())
        return super().forward(inputs)


resnet20_cifar = partial(QuantizedMetaResNet, 20)
resnet32_cifar = partial(QuantizedMetaResNet, 32)
resnet44_cifar = partial(QuantizedMetaResNet, 44)
resnet56_cifar = partial(QuantizedMetaResNet, 56)
resnet110_cifar = partial(QuantizedMetaResNet, 110)
