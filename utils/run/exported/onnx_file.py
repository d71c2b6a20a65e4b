"""An exported ONNX file, read and run by onnx_worker.py; the net it is of computes with onnxruntime."""

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import BadInput, shortened
from utils.files import strict_json
from utils.files.look import is_file
from utils.miscellaneous import in_mode
from utils.run.exported.about import DIGEST, About, export_digest
from utils.run.folder.finite import fault_of_weights
from utils.run.folder.weights import COUNTER

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
WORKER = Path(__file__).with_name("onnx_worker.py")
SECONDS = 300  # that onnxruntime may take for the first images
BATCH = 10  # images at a time, so that activations take little memory beside the weights
SAME_NET = 1e-3  # relative difference of logits up to which a graph is taken for the net's


def require_packages() -> None:
    """Raises BadInput, and says what to install, where the packages for ONNX are not there."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise BadInput(f"ONNX needs {', '.join(missing)}: pip install -r requirements-export.txt")


class Worker:
    """The process that reads and runs a file. It ends with the object, or with this process."""

    def __init__(self, path: Path):
        command = [sys.executable, "-P", str(WORKER), str(path), str(torch.get_num_threads())]
        environment = os.environ | {"MALLOC_ARENA_MAX": "1"}  # each arena would reserve 64 MiB
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.path, self._process = path, subprocess.Popen(command, env=environment, **pipes)
        self._end = weakref.finalize(self, _end, self._process)

    def ask(self, request: Mapping[str, Any] | None = None, data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """An answer and its bytes; None: for what the process says first. Raises BadInput where it finds fault, or has ended."""
        timer = Timer(SECONDS, self._process.kill)
        timer.start()
        try:
            if request is not None:
                self._process.stdin.write(json.dumps(request).encode() + b"\n" + data)
                self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or "{}")
            content = self._process.stdout.read(answer.get("bytes", 0))
        except BrokenPipeError:
            answer = {}
        finally:
            timer.cancel()
        if not answer:
            raise BadInput(f"{self.path} cannot be used: onnxruntime ended with code {self._process.wait()}, or took too long")
        if "fault" in answer:
            raise BadInput(f"{self.path} cannot be used: {shortened(answer['fault'], 400)}")
        return answer, content


def _end(process: subprocess.Popen) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        stream.close()
    process.wait()


@dataclass(frozen=True)
class OnnxFile:
    """A file as its worker describes it. types: of each initializer, its dtype's name and its shape."""

    about: About
    texts: Mapping[str, str]
    types: Mapping[str, tuple[str, tuple[int, ...]]]
    worker: Worker

    @classmethod
    def read(cls, path: Path) -> "OnnxFile":
        """Raises BadInput for a file that is damaged, no export, or holds what no export has."""
        require_packages()
        if not is_file(path):
            raise BadInput(f"{path} is not a file")
        worker = Worker(path)
        head, _ = worker.ask()
        try:
            about, _ = About.of(head["metadata"])
            for what, sizes in (("input", about.image_size), ("output", [about.num_classes])):
                if head[what][1:] != sizes or head[what][:1] != [None]:
                    raise ValueError(f"its {what} has shape {shortened(str(head[what]))}, not (batch, {str(sizes)[1:-1]})")
        except ValueError as error:
            raise BadInput(f"{path} cannot be used: {shortened(str(error), 400)}") from None
        types = {name: (dtype, tuple(shape)) for name, (dtype, shape) in head["initializers"].items()}
        return cls(about, head["metadata"], types, worker)

    def check(self, net: nn.Module) -> None:
        """Raises ValueError, naming the first, where an initializer is not what the net has under its name, or is missing."""
        for name, value in needed(net).items():
            if name not in self.types:
                raise ValueError(f"{name} is missing")
            wanted = (str(value.dtype).removeprefix("torch."), tuple(value.shape))
            if self.types[name] != wanted:
                raise ValueError("{} is {} {}, not {} {}".format(name, *self.types[name], *wanted))

    @torch.no_grad()
    def load_into(self, net: nn.Module) -> None:
        """Gives a metaquantized net the weights, and lets onnxruntime compute its logits.

        Raises ValueError as `check` does, for a file that is damaged, and where the graph is not the net's: for two images it
        gives other logits than the net with these weights.
        """
        self.check(net)
        arrays = {name: self._weight(name) for name in sorted(needed(net))}
        if export_digest(self.texts, arrays.items()) != strict_json.loads(self.texts[DIGEST]):
            raise ValueError("it is damaged: its content does not fit its digest")
        weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if fault := fault_of_weights(weights):
            raise ValueError(fault)
        for name, value in needed(net).items():
            value.copy_(weights[name])
        images = torch.randn(2, *self.about.image_size, generator=torch.Generator().manual_seed(0))
        device = next(net.parameters()).device
        with in_mode(net, training=False):
            expected = net(images.to(device)).cpu()
        logits = self.logits(images)
        if logits.shape != expected.shape or not (logits - expected).abs().max() <= SAME_NET * expected.abs().max():
            raise ValueError("its graph computes something else than the net with these weights")
        net.forward = self.logits

    def _weight(self, name: str) -> np.ndarray:
        dtype, shape = self.types[name]
        return np.frombuffer(bytearray(self.worker.ask({"weight": name})[1]), dtype).reshape(shape)

    def logits(self, images: Tensor, quantized_type: None = None) -> Tensor:
        """What onnxruntime computes for images (B, 3, 32, 32): (B, num_classes), on the images' device."""
        return torch.cat([self._run(piece) for piece in images.split(BATCH)]).to(images.device)

    def _run(self, images: Tensor) -> Tensor:
        data = images.cpu().float().contiguous().numpy().tobytes()
        answer, content = self.worker.ask({"images": list(images.shape)}, data)
        if answer["logits"] != (shape := [len(images), self.about.num_classes]):
            raise BadInput(f"{self.worker.path}: its logits have shape {shortened(str(answer['logits']))}, not {shape}")
        return torch.frombuffer(bytearray(content), dtype=torch.float32).view(shape)


def needed(net: nn.Module) -> dict[str, Tensor]:
    """What a graph computes with: the parameters, each once, and the buffers, but not batch normalisation's counters."""
    state = net.state_dict()
    names = [name for name, _ in (*net.named_parameters(), *net.named_buffers()) if name in state]
    return {name: state[name] for name in names if not name.endswith(f".{COUNTER}")}
