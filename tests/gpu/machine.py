"""Which machine and which versions the table comes from."""

from __future__ import annotations

import os
import platform

import torch

from tests.gpu.sizes import Sizes
from tests.gpu.table import Rows


def run(rows: Rows, sizes: Sizes, device: torch.device) -> None:
    """One row for the hardware and one for each library."""
    with rows.row("hardware") as figures:
        figures["cores"] = len(os.sched_getaffinity(0))
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            figures["GPU"] = properties.name
            figures["GPU memory GiB"] = properties.total_memory / 2**30
            figures["compute capability"] = f"{properties.major}.{properties.minor}"
        else:
            figures["GPU"] = "none, so everything below ran on the CPU"
    with rows.row("Python and PyTorch") as figures:
        figures["Python"] = platform.python_version()
        figures["torch"] = torch.__version__
        figures["CUDA"] = str(torch.version.cuda)
        figures["cuDNN"] = str(torch.backends.cudnn.version())
    with rows.row("ONNX Runtime") as figures:
        import onnxruntime

        figures["onnxruntime"] = onnxruntime.__version__
        figures["providers"] = ", ".join(onnxruntime.get_available_providers())
