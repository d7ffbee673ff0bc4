"""A process of `python -m tests.gpu`: one section -> its rows, as lines of JSON on stdout."""

from __future__ import annotations

import importlib
import os
import sys

from tests.gpu.table import Rows


def main(section: str, module: str, *arguments: str) -> None:
    """Run the section that stands in `module`."""
    os.setpgid(0, 0)  # so that all processes that the section starts can be ended together
    # everything else that prints goes to the log, also from processes that the section starts
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    from tests.gpu import sizes

    on_gpu = torch.cuda.is_available()
    chosen = sizes.chosen(quick="RAMNAS_GPU_QUICK" in os.environ, on_gpu=on_gpu)
    device = torch.device("cuda" if on_gpu else "cpu")
    rows = Rows(section, stream)
    importlib.import_module(f"tests.gpu.{module}").run(rows, chosen, device, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
