"""An exported net as a file: packed weights or ONNX, checked whoever wrote it, and the net that it is of."""
