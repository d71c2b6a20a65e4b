"""Counting an iteration's operations and bytes."""

import pytest
import torch
import torch.nn.functional as F

from utils.benchmark.costs import Cost, Machine, count, count_costs, table, this_cpu
from utils.benchmark.options import BenchmarkOptions


def test_a_product_and_a_convolution():
    a, b = torch.empty(3, 5, device="meta"), torch.empty(5, 7, device="meta")
    assert count(lambda: a @ b) == Cost(2 * 3 * 5 * 7, 4 * (15 + 35 + 21))
    x, W = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta")
    assert count(lambda: F.conv2d(x, W, padding=1)).flops == 2 * (2 * 4 * 8 * 8) * (3 * 3 * 3)


def test_views_move_nothing_and_an_update_in_place_reads_and_writes():
    a = torch.empty(10, device="meta")
    assert count(lambda: a.view(2, 5).t()).bytes == 0
    assert count(lambda: a.add_(a)).bytes == 3 * 40
    assert count(lambda: torch.add(a, a, out=a)).bytes == 3 * 40


def test_the_lower_bound_is_the_larger_of_compute_and_memory_time():
    assert Cost(100, 10).lower_bound(Machine("", 10.0, 10.0)) == 10
    assert Cost(10, 200).lower_bound(Machine("", 10.0, 10.0)) == 20


def test_the_lstm_costs_two_products_for_each_coordinate_and_the_others_nearly_nothing():
    costs = count_costs(BenchmarkOptions(methods=("plain", "STE", "MultiFC", "LSTMFC")))
    flops = {method: cost.flops for (*_, method), cost in costs.items()}
    assert flops["plain"] == flops["STE"] == pytest.approx(flops["MultiFC"], rel=1e-4)
    N, h = 270_896, 100  # ResNet20's weights, with 1x1 shortcuts and classifier
    assert flops["LSTMFC"] - flops["STE"] == pytest.approx(2 * 2 * N * 4 * h * (h + 2), rel=1e-3)
    assert costs["ResNet20", 128, "dorefa", "MultiFC"].bytes < 1.1 * costs["ResNet20", 128, "dorefa", "STE"].bytes
    assert "| ResNet20 | 128 | dorefa | LSTMFC |" in table(costs)


def test_this_cpu_is_measured():
    machine = this_cpu(size=64, repeats=2)
    assert machine.flops > 1e6
    assert machine.bandwidth > 1e6
