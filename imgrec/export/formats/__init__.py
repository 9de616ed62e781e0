"""Export formats: ONNX and OpenVINO files."""
