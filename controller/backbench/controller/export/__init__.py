"""From a backbone's name to an ONNX file that a device can be given: export, precision, metadata, checks."""
