"""What a network is: search spaces, plans, ONNX graphs and bundles; with torch, the supernet."""
