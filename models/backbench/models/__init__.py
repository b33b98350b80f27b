"""The model zoo: recipes, skeletons, the reading of ONNX files and the image pipeline. No torch anywhere below."""
