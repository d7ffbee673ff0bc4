"""What a network is: search spaces, plans, ONNX graphs, bundles; the supernet (torch)."""
