"""The notebook's loop, written out with the names that hold, runs against this code and equals main.py's loop."""

import copy

import pytest
import torch
from torch import nn

from meta_utils.helpers import meta_gradient_generation, update_parameters
from meta_utils.meta_network import MetaDesignedMultiFC, MetaFC, MetaLSTMFC
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from models_CIFAR.quantized_meta_resnet import resnet20_cifar
from utils import quantize
from utils.miscellaneous import AverageMeter, accuracy, get_layer, progress_bar  # noqa: F401
from utils.quantize import get_quantizer
from utils.recorder import Recorder

META_NETS = {  # constructed with the notebook's keywords
    "FC-Grad": lambda hidden_size: MetaFC(hidden_size=hidden_size, use_nonlinear="relu"),
    "MultiFC": lambda hidden_size: MetaDesignedMultiFC(hidden_size=hidden_size, num_layers=4, use_nonlinear=None),
    "LSTMFC": lambda hidden_size: MetaLSTMFC(hidden_size=hidden_size),
}


@pytest.mark.parametrize("meta_method", META_NETS)
def test_the_notebooks_loop(meta_method, tmp_path, batches):
    torch.manual_seed(0)
    net = resnet20_cifar(bitW=1).double()
    meta_net = META_NETS[meta_method](hidden_size=5).double()
    optimizee = SGD(net.parameters(), lr=0.05)
    meta_optimizer = torch.optim.Adam(meta_net.parameters(), lr=1e-2)
    reference = copy.deepcopy((net, meta_net))
    train_loader, test_loader = batches(4), batches(1)
    recorder = Recorder(SummaryPath=tmp_path, dataset_name="CIFAR10")
    meta_grad_dict, meta_hidden_state_dict = {}, {}
    criterion = nn.CrossEntropyLoss()

    for epoch in range(2):
        if recorder.stop:
            break
        net.train()
        recorder.reset_performance()
        for batch_idx, (inputs, targets) in enumerate(train_loader):
            meta_optimizer.zero_grad()
            if epoch > 0 or batch_idx > 0:
                meta_grad_dict, meta_hidden_state_dict = meta_gradient_generation(
                    meta_net, net, meta_method, meta_hidden_state_dict
                )
            lr = optimizee.param_groups[0]["lr"]
            outputs = net(inputs, quantized_type="dorefa", meta_grad_dict=meta_grad_dict, lr=lr)
            optimizee.zero_grad()
            losses = criterion(outputs, targets)
            losses.backward()
            meta_optimizer.step()
            if meta_grad_dict:
                for layer_name, path in net.layer_name_list:
                    layer = get_layer(net, path)
                    assert torch.equal(layer.pre_quantized_grads, meta_grad_dict[layer_name][1])
                    layer.weight.grad.data = layer.calibration * layer.pre_quantized_grads
            optimizee.get_refine_gradient()
            if meta_grad_dict:
                update_parameters(net, lr=lr)
            recorder.update(
                loss=losses.data.item(), acc=accuracy(outputs.data, targets.data, (1, 5)), batch_size=outputs.shape[0], cur_lr=lr
            )
            recorder.print_training_result(batch_idx, len(train_loader))
        test_acc = quantize.test(
            net, quantized_type="dorefa", test_loader=test_loader, dataset_name="CIFAR10", n_batches_used=None
        )
        recorder.update(loss=None, acc=test_acc, batch_size=0, end=None, is_train=False)
        recorder.adjust_lr(optimizer=optimizee, adjust_type=1, epoch=epoch)
    assert 0 <= recorder.get_best_test_acc() <= 100
    recorder.close()

    own_net, own_meta_net = reference
    loop = TrainingLoop(
        own_net,
        own_optimizee := SGD(own_net.parameters(), lr=0.05),
        get_quantizer("dorefa"),
        own_meta_net,
        torch.optim.Adam(own_meta_net.parameters(), lr=1e-2),
    )
    for epoch in range(2):
        own_optimizee.param_groups[0]["lr"] = 0.05 * 0.1**epoch
        for batch in train_loader:
            loop.step(*batch)
    for ours, theirs in ((net, own_net), (meta_net, own_meta_net)):
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.equal(p, q), name
