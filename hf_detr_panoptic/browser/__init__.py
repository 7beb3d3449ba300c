"""The model without Python: ONNX graphs, what runs and verifies them, and the page that anybody opens."""
