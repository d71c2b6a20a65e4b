"""A quantized net as an ONNX file, by torch.onnx's exporter.

Every tensor of the net's state dict, apart from batch normalisation's counters, is an initializer under its own name, bit for
bit: a quantized weight has as many distinct values as W_hat. The exporter's own optimization is off, because it multiplies batch
normalisation into the weights; only operators on constants are computed in advance.
"""

import warnings

import onnx
import torch
from onnx import numpy_helper
from onnxscript import optimizer
from torch import nn

from meta_utils.metaquantize import plain_copy
from utils.errors import BadInput, first_line, machine_failure, shortened
from utils.files import strict_json
from utils.quantizers.quantizer import Quantizer
from utils.run.exported.about import DIGEST, IMAGE_SIZE, About, export_digest
from utils.run.exported.onnx_file import needed

OPSET = 18
INPUT, OUTPUT = "images", "logits"


def onnx_bytes(net: nn.Module, quantizer: Quantizer, about: About) -> bytes:
    """The file's content: images (batch, 3, 32, 32), normalised -> logits (batch, num_classes), for any batch.

    Raises BadInput for a net that torch.onnx cannot export.
    """
    plain = plain_copy(net, quantizer).eval()
    try:
        with warnings.catch_warnings(action="ignore"):
            model = _exported(plain)
    except Exception as error:  # of whatever the net's code leads to
        if machine_failure(error):
            raise
        why = shortened(f"{type(error).__name__}: {first_line(error)}", 300)
        raise BadInput(f"torch.onnx cannot export the net {about.architecture} ({why})") from error
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    texts = about.texts()
    arrays = ((name, numpy_helper.to_array(weights[name])) for name in sorted(needed(plain)) if name in weights)
    texts[DIGEST] = strict_json.dumps(export_digest(texts, arrays))
    onnx.helper.set_model_props(model, texts)
    return model.SerializeToString()


def _exported(net: nn.Module) -> onnx.ModelProto:
    """The net's graph without what the exporter notes on the way: its names, traces and paths."""
    program = torch.onnx.export(
        net,
        (torch.zeros(2, *IMAGE_SIZE),),
        dynamo=True,
        optimize=False,
        opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    names = net.state_dict().keys()
    optimizer.fold_constants_ir(
        program.model, should_fold=lambda node: False if any(value and value.name in names for value in node.inputs) else None
    )
    optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    graph = model.graph
    first: dict[int, str] = {}  # a parameter that several names share has the last of them here
    usual = {name: first.setdefault(id(p), name) for name, p in net.named_parameters(remove_duplicate=False)}
    for tensor in graph.initializer:
        tensor.name = usual.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [usual.get(name, name) for name in node.input]
    for noted in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del noted.metadata_props[:]
        noted.doc_string = ""
    del graph.value_info[:]
    return model
