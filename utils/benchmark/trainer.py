"""What a benchmark runs: iterations of a method on random images in CIFAR's form, by the loop and the loader of `train`."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain, count, islice, repeat

import torch
import torch.nn.functional as F

from meta_utils.capture import CudaGraphs
from meta_utils.iterations import Iterations
from utils.batches import ImageSet, Loader, ResidentLoader
from utils.benchmark.options import PLAIN, Method, Turn
from utils.choices import TF32
from utils.environment import product_dtype, use_tf32
from utils.run.build import build_loop
from utils.run.nets import plain_net
from utils.run.settings import TrainSettings


def _loader(batch_size: int, device: torch.device) -> Loader:
    """Random images in CIFAR's form, augmented by the loader that training uses; on a GPU about as many."""
    generator = torch.Generator().manual_seed(0)
    total = batch_size * max(8, 50_000 // batch_size if device.type == "cuda" else 0)
    images = torch.randint(256, (total, 32, 32, 3), dtype=torch.uint8, generator=generator)
    targets = torch.randint(10, (total,), generator=generator)
    return ResidentLoader(ImageSet(images, targets, 10, (0.5,) * 3, (0.5,) * 3), "train", batch_size, device=device)


def _plain(model: str, precision: str, loader: Loader, device: torch.device) -> Callable[[int], None]:
    net = plain_net(model, loader.image_set.num_classes).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    endless, dtype = chain.from_iterable(repeat(loader)), product_dtype(precision)

    def run(iterations: int) -> None:
        for inputs, targets in islice(endless, iterations):
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype) if dtype else nullcontext():
                loss = F.cross_entropy(net(inputs.contiguous()), targets)  # the default memory format, inputs included
            loss.backward()
            optimizer.step()

    return run


def _quantized(
    turn: Turn,
    model: str,
    quantizer: str,
    optimizer: str,
    loader: Loader,
    device: torch.device,
    graphs: CudaGraphs | None,
    on_eager: Callable[[str], None],
) -> Callable[[int], None]:
    method = Method(turn.method)
    setup = {"model": model, "dataset": "CIFAR10", "quantizer": quantizer, "optimizer": optimizer, "backward": method.backward}
    how = {"meta_nonlinear": method.nonlinear, "precision": turn.precision}
    loop = build_loop(TrainSettings(**setup, **how), loader, device)
    work = Iterations(loop, loader, graphs, on_eager)
    sizes = chain.from_iterable(work.begin(epoch) for epoch in count())

    def run(iterations: int) -> None:
        for size in islice(sizes, iterations):
            work.run(size)

    return run


def trainer(
    turn: Turn,
    setup: tuple[str, int, str],
    optimizer: str,
    device: torch.device,
    eager: bool,
    not_captured: dict[Turn, str] | None = None,
) -> Callable[[int], None]:
    """What runs so many iterations of a method, in its precision, on a net, batch size and quantizer.

    not_captured: takes the reason for which its iterations run eagerly although they should be captured, which is also printed.
    """
    model, batch_size, quantizer = setup
    torch.manual_seed(0)
    loader = _loader(batch_size, device)
    if turn.method == PLAIN:
        iterate = _plain(model, turn.precision, loader, device)
    else:
        graphs = CudaGraphs(device) if device.type == "cuda" and not eager else None

        def on_eager(why: str) -> None:
            print(f"note: {turn.method} in {turn.precision} runs eagerly, and slower: {why}", file=sys.stderr)
            if not_captured is not None:
                not_captured[turn] = why

        iterate = _quantized(turn, model, quantizer, optimizer, loader, device, graphs, on_eager)

    def run(iterations: int) -> None:
        use_tf32(turn.precision == TF32)
        iterate(iterations)

    return run
