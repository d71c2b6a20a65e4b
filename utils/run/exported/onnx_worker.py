"""An ONNX file in a process of its own: parsed, looked through and run by onnxruntime, with limited memory.

onnx_file.py starts it as a program with the file's path and a number of threads; it imports nothing of the project. What a file
can do is therefore limited to this process: its memory may grow by 40 times the file's size and a fixed part, and a crash ends it
alone. Requests come as lines of JSON on standard input, answers go as lines of JSON to standard output, each followed by as many
bytes as its "bytes" says:
{"weight": name}: an initializer's values; {"images": shape}: the logits for images, float32, which follow;
in the beginning, without a request: "metadata", "initializers" (name -> dtype and shape), "input" and "output" (shapes).
An answer {"fault": words} says what is wrong with the file.
"""

import json
import os
import resource
import sys
from math import prod

import numpy as np
import onnx
import onnxruntime
from onnx import AttributeProto, TensorProto, helper, numpy_helper

MIB = 1 << 20
GROWTH, FIXED = 40, 64 * MIB  # times the file's size, and bytes
STACK = 8 * MIB  # of a thread
LARGEST = (1 << 31) - 1  # bytes that a message of protobuf can have
PLAIN = [getattr(AttributeProto, name) for name in ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS")]
NUMBERS = [getattr(TensorProto, name) for name in ("FLOAT", "DOUBLE", "INT64", "INT32", "INT16", "INT8", "UINT8", "BOOL")]
NUMBER_FIELDS = ("float_data", "int32_data", "int64_data", "double_data")
NO_MEMORY = ("bad_alloc", "alloc failed", "Failed to allocate memory")  # words of protobuf, C++ and onnxruntime


class Fault(Exception):
    """What is wrong with the file."""


def limit_memory(size: int, threads: int) -> None:
    """Address space: what the process has now, and what a file of this size may add. Systems without /proc have no such limit."""
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (now + GROWTH * size + FIXED + threads * STACK,) * 2)


def check_tensor(tensor: TensorProto) -> None:
    """Raises Fault where a tensor's numbers are elsewhere, or not as many as its shape says."""
    name = tensor.name[:100] or "a constant"
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        raise Fault(f"{name} has its numbers in another file")
    if tensor.data_type not in NUMBERS:
        raise Fault(f"{name} has numbers of type {tensor.data_type}, which no export has")
    count, size = prod(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    there = len(tensor.raw_data) / size if tensor.raw_data else sum(len(getattr(tensor, field)) for field in NUMBER_FIELDS)
    if min(tensor.dims, default=0) < 0 or there != count:
        raise Fault(f"{name} has shape {str(tuple(tensor.dims))[:100]}, but {there:g} numbers")


def shape_of(values: list, what: str) -> list:
    """The shape of the only input or output, None for a free size. Raises Fault where it is not one float32 tensor."""
    if len(values) != 1 or values[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise Fault(f"it has not one {what} in float32")
    return [d.dim_value if d.HasField("dim_value") else None for d in values[0].type.tensor_type.shape.dim]


def check_model(model: onnx.ModelProto) -> None:
    """Raises Fault for what no export has: other operators than ONNX's own, graphs in graphs, data elsewhere."""
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer or any(o.domain for o in model.opset_import):
        raise Fault("it has functions, training, sparse tensors or operators that are not ONNX's own")
    for node in graph.node:
        if node.domain:
            raise Fault(f"its operator {node.op_type[:100]} is not ONNX's own")
        for attribute in node.attribute:
            if attribute.type not in PLAIN:
                raise Fault(f"its operator {node.op_type[:100]} has a graph or another attribute that no export has")
            if attribute.type == AttributeProto.TENSOR:
                check_tensor(attribute.t)
    for tensor in graph.initializer:
        check_tensor(tensor)
    if len({tensor.name for tensor in graph.initializer}) < len(graph.initializer):
        raise Fault("it has two tensors of one name")


def answer(content: dict, data: bytes = b"") -> None:
    """Writes a line of JSON, which says how many bytes follow, and the bytes, to standard output."""
    sys.stdout.buffer.write(json.dumps(content | {"bytes": len(data)}).encode() + b"\n" + data)
    sys.stdout.buffer.flush()


def serve(path: str, threads: int) -> None:
    """Reads the file, then answers until standard input ends."""
    size = os.stat(path).st_size
    if size > LARGEST:
        raise Fault("it is larger than 2 GiB")
    limit_memory(size, threads)
    with open(path, "rb") as file:
        content = file.read(size)
    model = onnx.load_model_from_string(content)
    check_model(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    types = {name: [helper.tensor_dtype_to_np_dtype(t.data_type).name, list(t.dims)] for name, t in weights.items()}
    shapes = {"input": shape_of(model.graph.input, "input"), "output": shape_of(model.graph.output, "output")}
    answer({"metadata": {entry.key: entry.value for entry in model.metadata_props}, "initializers": types, **shapes})
    images, session = model.graph.input[0].name, None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if "weight" in request:
            answer({}, np.ascontiguousarray(numpy_helper.to_array(weights[request["weight"]])).tobytes())
            continue
        batch = np.frombuffer(sys.stdin.buffer.read(4 * prod(request["images"])), np.float32).reshape(request["images"])
        if session is None:
            del model, weights
            session = start(content, threads)
            del content
        (logits,) = session.run(None, {images: batch})
        answer({"logits": list(logits.shape)}, np.ascontiguousarray(logits, np.float32).tobytes())


def start(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    """onnxruntime's session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_cpu_mem_arena = False  # it would take memory in ever larger pieces
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def describe(error: Exception) -> str:
    """What a foreign file has led to, in a line."""
    words = (str(error).splitlines() or [""])[0]
    if isinstance(error, MemoryError) or any(sign in words for sign in NO_MEMORY):
        return f"it takes more memory than {GROWTH} times its size"
    return words if isinstance(error, Fault) else f"{type(error).__name__}: {words}"


if __name__ == "__main__":
    try:
        serve(sys.argv[1], int(sys.argv[2]))
    except Exception as error:
        answer({"fault": describe(error)})
