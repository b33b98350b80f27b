"""Export the catalogue's backbones with random weights and keep their skeletons. Called by scripts/make-skeletons.

The weights are random, so nobody's training is in a skeleton. Batch normalisation gets random scales and then the
statistics of one batch of noise, so that no branch is dead and folding it into the convolutions gives usual numbers.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from backbench.models.calibration import calibrated
from backbench.models.catalog import names, recipe, skeleton_path
from backbench.models.onnx_input import MODEL_KEY, PREPROCESS_KEY
from backbench.models.recipe import Recipe
from backbench.models.skeleton import skeleton_from_onnx

SEED = 0
OPSET = 20
AXES = {0: "batch", 2: "height", 3: "width"}
_stand_ins: list[torch.library.Library] = []


def import_timm() -> Any:
    """timm, also beside a torchvision whose compiled operators do not load with this torch.

    Such a torchvision stops at the first operator it cannot find. Declaring the operator's signature lets the import
    go on; no backbone calls it.
    """
    for _ in range(8):
        try:
            return importlib.import_module("timm")
        except RuntimeError as error:
            missing = re.fullmatch(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            for module in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "timm")]:
                del sys.modules[module]
            if not _stand_ins:
                _stand_ins.append(torch.library.Library("torchvision", "FRAGMENT"))
            _stand_ins[0].define(f"{missing[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    raise ImportError("torchvision does not import beside this torch; install the pair that belongs together")


def backbone_with_random_weights(timm: Any, name: str) -> torch.nn.Module:
    """The backbone in evaluation mode and deploy form, with weights that let every branch speak."""
    torch.manual_seed(SEED)
    model = timm.create_model(name, pretrained=False).train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = None
    with torch.no_grad():
        model(torch.randn(8, 3, 224, 224))
    from timm.utils.model import reparameterize_model

    deployed: torch.nn.Module = reparameterize_model(model.eval())
    return deployed.eval()


def exported(model: torch.nn.Module, height: int, width: int, path: Path) -> onnx.ModelProto:
    """`model` as ONNX with symbolic batch, height and width; the weights lie in `path`, too."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    program = torch.onnx.export(
        model,
        (torch.randn(2, 3, height, width + 32),),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=(AXES,),
    )
    if program is None:
        raise SystemExit("make-skeletons: the exporter gave no program")
    program.save(path, external_data=False)
    onnx_model = onnx.load(path)
    opset = {entry.domain: entry.version for entry in onnx_model.opset_import}[""]
    if opset != OPSET:
        raise SystemExit(f"make-skeletons: the exporter wrote opset {opset} instead of {OPSET}")
    return onnx_model


def run_by_onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
    """One operator on one thread, so that the order of additions never changes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def state_metadata(skeleton: onnx.ModelProto, of: Recipe) -> None:
    """Put the recipe's preprocessing and the model's origin into `skeleton`."""
    facts = {
        "schema": "backbench.model/1",
        "name": of.name,
        "tag": of.timm_tag,
        "licence": of.licence,
        "weights": f"random:{SEED}",
        "deploy_form": True,
        "opset": OPSET,
        "params": of.params,
        "outputs": [{"name": "logits", "kind": "logits"}],
        "exporter": "torch.onnx dynamo",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "timm", "onnxscript")},
    }
    for key, value in ((PREPROCESS_KEY, asdict(of.preprocess)), (MODEL_KEY, facts)):
        skeleton.metadata_props.append(onnx.StringStringEntryProto(key=key, value=json.dumps(value, sort_keys=True)))


def check_against_timm(timm: Any, of: Recipe, params: int) -> None:
    """Stop where a recipe states something else than timm does."""
    stated = timm.models.get_pretrained_cfg(of.name)
    theirs = (stated.tag, stated.license, stated.input_size[1:], stated.mean, stated.std, stated.interpolation)
    image = of.preprocess
    ours = (of.timm_tag, of.licence, of.size, image.mean, image.std, image.interpolation)
    if (*theirs, stated.crop_pct, params) != (*ours, image.crop_ratio, of.params):
        raise SystemExit(
            f"make-skeletons: {of.name}: timm says {theirs}, {stated.crop_pct}, {params}; correct the recipe"
        )


def make_skeleton(timm: Any, name: str, destination: Path, keep_full: Path | None) -> None:
    """Write the skeleton of the backbone called `name` to `destination`, and its full export to `keep_full`."""
    of = recipe(name)
    check_against_timm(timm, of, sum(p.numel() for p in timm.create_model(name).parameters()))
    with tempfile.TemporaryDirectory() as folder:
        full = keep_full or Path(folder) / "full.onnx"
        model = exported(backbone_with_random_weights(timm, name), *of.size, full)
    state_metadata(model, of)
    skeleton = calibrated(skeleton_from_onnx(model, seed=SEED), run=run_by_onnxruntime)
    destination.write_bytes(skeleton.SerializeToString(deterministic=True))
    print(f"{name}: {destination.stat().st_size} bytes, {len(skeleton.graph.node)} operators")


def main() -> None:
    """Make the skeletons of the names given, or of all."""
    parser = argparse.ArgumentParser(prog="make-skeletons", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="backbones of the catalogue; all by default")
    parser.add_argument("--into", type=Path, help="write to this folder instead of the catalogue's")
    parser.add_argument("--keep-full", type=Path, help="keep the exports with weights in this folder")
    arguments = parser.parse_args()
    timm = import_timm()
    for name in arguments.names or names():
        into = arguments.into / recipe(name).skeleton if arguments.into else skeleton_path(name)
        full = arguments.keep_full / f"{name}.onnx" if arguments.keep_full else None
        make_skeleton(timm, name, into, full)


if __name__ == "__main__":
    main()
