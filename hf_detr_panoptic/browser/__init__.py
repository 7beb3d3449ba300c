"""The model without Python: verified ONNX graphs, and the page that runs them in a browser."""
