"""Inference engines: they open the bytes of an ONNX model and then turn arrays into arrays."""
