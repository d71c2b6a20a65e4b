"""A stand-in for CUDA graphs on the CPU: records the operations of some work on fixed tensors, and replays them on those."""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SYNCHRONISING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "item", "unique", "_unique2"}
UNDECLARED = {("native_batch_norm", "running_mean"), ("native_batch_norm", "running_var")}  # written, the schema does not say so


def tensors(values) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class _Recorder(TorchDispatchMode):
    """Keeps every operation with its arguments and results, and the memory that was there before as it was."""

    def __init__(self):
        super().__init__()
        self.operations, self.before, self.made = [], {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        assert name not in SYNCHRONISING, f"{name} waits for the device"
        for place, argument in enumerate(func._schema.arguments):
            if (argument.alias_info is not None and argument.alias_info.is_write) or (name, argument.name) in UNDECLARED:
                for tensor in tensors(args[place] if place < len(args) else kwargs.get(argument.name)):
                    storage = tensor.untyped_storage()
                    if storage.data_ptr() not in self.made:
                        self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        given = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
        results = func(*args, **kwargs)
        new = [t for t in tensors(results) if t.untyped_storage().data_ptr() not in given]
        self.made.update(t.untyped_storage().data_ptr() for t in new)
        places = [t.detach() for t in tensors(results)] if new else []  # squeeze_ and the like change the results' shapes later
        self.operations.append((func, args, kwargs, places))
        return results


class Tape:
    """What Iterations takes in the place of CudaGraphs."""

    def __init__(self):
        self.captures = self.replays = 0

    def eagerly(self, body: Callable[[], None]) -> None:
        body()

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        recorder = _Recorder()
        with recorder:
            body()
        for storage, content in recorder.before.values():
            storage.copy_(content)

        def replay() -> None:
            self.replays += 1
            with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
                for func, args, kwargs, places in recorder.operations:
                    again = func(*args, **kwargs)
                    for place, value in zip(places, tensors(again) if places else [], strict=True):
                        place.copy_(value)

        return replay


class CannotCapture(Tape):
    """A capture that fails halfway, from the n-th on; what the iteration's Python did by then has happened."""

    def __init__(self, nth=1, error=RuntimeError):
        super().__init__()
        self.nth, self.error = nth, error

    def capture(self, body):
        replay = super().capture(body)
        if self.captures >= self.nth:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB\nmore of it")
        return replay
