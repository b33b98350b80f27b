"""Static analysis of ONNX graphs: what a model costs and what it sees, without running it."""

from backbench.controller.analysis.graph.analyser import analyse
from backbench.controller.analysis.graph.document import SCHEMA, to_document
from backbench.controller.analysis.graph.results import FeatureMap, Field, GraphAnalysis, Operator, OutputReach, Traffic
from backbench.controller.analysis.graph.roofline import OperatorBound, Roofline, roofline

__all__ = [
    "SCHEMA", "FeatureMap", "Field", "GraphAnalysis", "Operator", "OperatorBound", "OutputReach", "Roofline", "Traffic",
    "analyse", "roofline", "to_document",
]  # fmt: skip
