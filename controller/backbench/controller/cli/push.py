"""`backbench push`: files onto a device, ahead of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backbench.controller.cli.options import DeviceName, Insecure, Json, open_store
from backbench.controller.cli.output import print_json, print_line

if TYPE_CHECKING:
    from backbench.controller.client.uploads import Upload


def push(
    context: typer.Context,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="A backbone, an .onnx file, an image or a folder of images.")
    ],
    device: DeviceName,
    insecure: Insecure = False,
    json: Json = False,
) -> int:
    """Send models and images to a device; what it has already is not sent again."""
    from backbench.controller.cli.progress import shown
    from backbench.controller.operations.devices import client_of, contact
    from backbench.controller.push import push as send

    store = open_store(context)
    uploads = [upload for text in files for upload in _uploads(text)]
    record = store.device(device)
    with client_of(store, record, insecure) as client, shown() as observer:
        contact(store, record, client)
        digests = send(client, uploads, observer.pushing)
    if json:
        artifacts = [
            {"name": upload.name, "kind": upload.kind.value, "sha256": sha256}
            for upload, sha256 in zip(uploads, digests, strict=True)
        ]
        print_json({"schema": "backbench.artifacts/1", "device": device, "artifacts": artifacts})
        return 0
    for upload, sha256 in zip(uploads, digests, strict=True):
        print_line(f"{sha256}  {upload.kind.value}  {upload.name}")
    return 0


def _uploads(text: str) -> list[Upload]:
    from pathlib import Path

    from backbench.controller.export.images import SUFFIXES, find_images
    from backbench.controller.operations.images import image_upload
    from backbench.controller.operations.models import resolve_model

    path = Path(text)
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        return [image_upload(image) for image in find_images(path)]
    return list(resolve_model(text).uploads)
