"""Predicting from an ONNX export, with numpy and onnxruntime alone."""
