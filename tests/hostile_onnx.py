"""Makers of ONNX files that nobody should believe, from a good one; those that are forged have a digest that fits."""

import json
import random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from utils.run.exported.about import export_digest

FC, CONV = "fc.weight", "conv1.weight"
LAST = "logits"


def copied(model):
    return onnx.load_model_from_string(model.SerializeToString())


def tensor(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def fitted(model, names, **texts):
    """With metadata changed (as texts), and a digest that fits; names: of the net's tensors."""
    props = {entry.key: entry.value for entry in model.metadata_props} | texts
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in names}
    props["sha256"] = json.dumps(export_digest(props, sorted(arrays.items())))
    del model.metadata_props[:]
    helper.set_model_props(model, props)
    return model


def elsewhere(model):
    kernel = tensor(model, FC)
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value="/etc/passwd")


def huge_without_numbers(model):
    kernel = tensor(model, FC)
    kernel.dims[:] = [10**6, 10**6]
    kernel.ClearField("raw_data")


def negative(model):
    tensor(model, FC).dims[0] = -2


def shorter(model):
    tensor(model, FC).raw_data = tensor(model, FC).raw_data[:-4]


def twice(model):
    model.graph.initializer.append(tensor(model, FC))


def constant_elsewhere(model):
    value = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[10**9], data_location=TensorProto.EXTERNAL)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=value))


def huge_constant(model):
    value = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[10**9])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=value))


def of_another_domain(model):
    model.opset_import.add(domain="com.example", version=1)
    model.graph.node.insert(0, helper.make_node("Anything", ["images"], ["a"], domain="com.example"))


def graph_in_a_graph(model):
    graph = helper.make_graph([], "inner", [], [])
    model.graph.node.insert(0, helper.make_node("If", ["images"], ["a"], then_branch=graph, else_branch=graph))


def with_a_function(model):
    model.functions.append(helper.make_function("", "F", ["x"], ["x"], [], [helper.make_opsetid("", 18)]))


def sparse(model):
    model.graph.sparse_initializer.add()


def two_inputs(model):
    model.graph.input.append(model.graph.input[0])


def other_classes(model):
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 10**9


STATIC = {  # what check_model or shape_of must find
    "numbers in another file": (elsewhere, "fc.weight has its numbers in another file"),
    "a huge tensor without numbers": (huge_without_numbers, "fc.weight has shape (1000000, 1000000), but 0 numbers"),
    "a negative size": (negative, "fc.weight has shape (-2, 64)"),
    "fewer numbers": (shorter, "fc.weight has shape (2, 64), but 127 numbers"),
    "a tensor named twice": (twice, "it has two tensors of one name"),
    "a constant in another file": (constant_elsewhere, "c has its numbers in another file"),
    "a huge constant": (huge_constant, "c has shape (1000000000,), but 0 numbers"),
    "an operator of another domain": (of_another_domain, "operators that are not ONNX's own"),
    "a graph in a graph": (graph_in_a_graph, "its operator If has a graph"),
    "a function": (with_a_function, "it has functions"),
    "a sparse tensor": (sparse, "sparse tensors"),
    "two inputs": (two_inputs, "it has not one input in float32"),
}


def _after_the_logits(model, *nodes):
    """Nodes that make "logits" of what the graph computes ("before")."""
    for node in model.graph.node:
        node.output[:] = ["before" if name == LAST else name for name in node.output]
    model.graph.node.extend(nodes)


def without_a_layer(model):
    """The classifier's bias is added twice."""
    _after_the_logits(model, helper.make_node("Add", ["before", "fc.bias"], [LAST]))


def first_two_images(model):
    """Logits of two images alone, however many there are."""
    for name, value in (("from", 0), ("to", 2), ("axis", 0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    _after_the_logits(model, helper.make_node("Slice", ["before", "from", "to", "axis"], [LAST]))


def huge_on_the_way(model):
    """Adds the least of 10**10 zeros."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([10**5, 10**5]), "sizes"))
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["sizes"], ["zeros"], value=zero))
    least = helper.make_node("ReduceMin", ["zeros"], ["least"], keepdims=0)
    _after_the_logits(model, least, helper.make_node("Add", ["before", "least"], [LAST]))


def doubling(model):
    """Joins a tensor with itself 40 times."""
    nodes = [helper.make_node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0) for i in range(40)]
    first = helper.make_node("Identity", ["before"], ["c0"])
    least = helper.make_node("ReduceMin", ["c40"], ["least"], keepdims=0)
    _after_the_logits(model, first, *nodes, least, helper.make_node("Add", ["before", "least"], [LAST]))


def weights_of_nan(model):
    tensor(model, FC).raw_data = np.full(128, np.nan, np.float32).tobytes()


def smaller_kernel(model):
    kernel = tensor(model, CONV)
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel)[..., :1], CONV))


def of_another_name(model):
    tensor(model, FC).name = "fc.w"
    for node in model.graph.node:
        node.input[:] = ["fc.w" if name == FC else name for name in node.input]


def forged_files(path, names):
    """(content, words) for a file of ResNet8 for two classes."""
    good = onnx.load(path)
    for change, texts, words in (
        (lambda model: None, {"format_version": "2"}, "of format version 2"),
        (lambda model: None, {"architecture": '"ResNet20"'}, "layer1.1.conv1.weight is missing"),
        (lambda model: None, {"num_classes": "3"}, "its output has shape [None, 2], not (batch, 3)"),
        (other_classes, {"num_classes": "1000000000"}, "of a net for 1000000000 classes, and the data set has 2"),
        (of_another_name, {}, "fc.weight is missing"),
        (smaller_kernel, {}, "conv1.weight is float32 (16, 3, 3, 1), not float32 (16, 3, 3, 3)"),
        (weights_of_nan, {}, "fc.weight has values that are not finite"),
        (without_a_layer, {}, "its graph computes something else"),
        (first_two_images, {}, "its logits have shape [2, 2], not [8, 2]"),
        (huge_on_the_way, {}, "it takes more memory than 40 times its size"),
        (doubling, {}, "it takes more memory than 40 times its size"),
    ):
        model = copied(good)
        change(model)
        yield fitted(model, names, **texts).SerializeToString(), words


def damaged_files(path, seed=0):
    """(case, content): what may also be read as it was written, where what is damaged says nothing."""
    chance, whole = random.Random(seed), path.read_bytes()
    for place in (chance.randrange(len(whole)) for _ in range(2)):
        yield f"cut at {place}", whole[:place]
    for place in (chance.randrange(8 * len(whole)) for _ in range(2)):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        yield f"bit {place} flipped", bytes(flipped)
    yield "nothing", b""
    yield "text", b"no ONNX at all" * 100
    yield "ten million empty operators", b"\x3a" + _varint(20_000_000) + b"\x0a\x00" * 10_000_000


def _varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])
