"""torchvision's models, exported once and timed on request, in torchvision's own Python.

`torchvision_peer.py FOLDER` reads FOLDER/given.npz and writes the exported models and their results
on the frames to FOLDER. Then it prints the sizes of the models as a line of JSON, and answers each
line such as "detection 5" with the seconds of five calls. It imports nothing of ramnas.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

Outputs = tuple[torch.Tensor, ...]


class Detector(torch.nn.Module):
    """SSDLite320 MobileNetV3-Large: float [3, h, w] -> boxes, scores, labels.

    torchvision does the resizing, normalisation and suppression. `objects` is added to the logits,
    because random weights see either nothing or objects everywhere.
    """

    def __init__(self, objects: torch.Tensor, score: float, iou: float, count: int) -> None:
        super().__init__()
        self.net = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=objects.shape[-1],
            score_thresh=score, nms_thresh=iou, detections_per_img=count,
        )  # fmt: skip
        self.net.head.classification_head.register_forward_hook(lambda *call: call[-1] + objects)

    def forward(self, image: torch.Tensor) -> Outputs:
        found = self.net([image])[0]
        return found["boxes"], found["scores"], found["labels"]


class Network(torch.nn.Module):
    """The detector without resizing and decoding: float [1, 3, 320, 320] -> raw outputs."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.net = detector.net

    def forward(self, images: torch.Tensor) -> Outputs:
        return tuple(self.net.head(list(self.net.backbone(images).values())).values())


class Segmenter(torch.nn.Module):
    """LR-ASPP MobileNetV3-Large: float [3, h, w] -> the class of every pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=classes
        )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, image: torch.Tensor) -> Outputs:
        logits = self.net(((image - self.mean) / self.std)[None])["out"]
        return (logits.argmax(1)[0].to(torch.uint8),)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # the exporter warns about shapes that it takes as constants
    given = np.load(folder / "given.npz")
    score, iou, count = given["limits"].tolist()
    detector = Detector(torch.from_numpy(given["objects"]), score, iou, int(count)).eval()
    models = {"detection": detector, "segmentation": Segmenter(int(given["classes"])).eval()}
    frames = {task: given[task] for task in models}
    for model in (Network(detector), models["segmentation"].net):
        recalibrate(model)
    export(Network(detector).eval(), torch.rand(1, 3, 320, 320), folder / "network.onnx")
    sizes = {}
    for task, model in models.items():
        sizes[task] = size(model, frames[task])
        export(model, tensor(frames[task]), folder / f"{task}.onnx")
        np.savez(folder / f"{task}.npz", *call(model, frames[task]))
    send({"torch": torch.__version__, "torchvision": torchvision.__version__, **sizes})
    for line in sys.stdin:
        task, calls = line.split()
        seconds = []
        for _ in range(int(calls)):
            start = time.perf_counter()
            call(models[task], frames[task])
            seconds.append(time.perf_counter() - start)
        send(seconds)


def recalibrate(model: torch.nn.Module) -> None:
    """Set BatchNorm statistics from random images: without them, values of fresh weights fade."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # use the plain mean over the batches
            layer.reset_running_stats()
    model.train()
    with torch.inference_mode():
        model(torch.rand(8, 3, 320, 320))
    model.eval()


def call(model: torch.nn.Module, frame: Any) -> list[Any]:
    """Run the model on a uint8 BGR frame [h, w, 3]; returns its outputs in numpy."""
    with torch.inference_mode():
        return [found.numpy() for found in model(tensor(frame))]


def tensor(frame: Any) -> torch.Tensor:
    image = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1]))
    return image.permute(2, 0, 1).to(torch.float32).div_(255)


def export(model: torch.nn.Module, image: torch.Tensor, path: Path) -> None:
    """Use the older exporter, as the default one refuses the data-dependent sizes of a detector."""
    torch.onnx.export(model, (image,), path, input_names=["image"], opset_version=17, dynamo=False)


def size(model: torch.nn.Module, frame: Any) -> dict[str, int]:
    """Count the MACs of all convolutions in one call (nothing else has any) and the parameters."""
    macs = 0

    def count(layer: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal macs
        macs += out.numel() * layer.weight[0].numel()

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    call(model, frame)
    for hook in hooks:
        hook.remove()
    return {"macs": macs, "params": sum(p.numel() for p in model.parameters())}


def send(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
