"""Inference engines: the bytes of an ONNX model in, arrays in and out."""
