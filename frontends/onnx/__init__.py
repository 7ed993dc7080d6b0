"""ONNX models to Relax modules."""
