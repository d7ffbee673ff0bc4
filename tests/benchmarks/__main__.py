"""Run the named benchmarks, or all, and print their results.

A run of all also writes benchmarks.json.
"""

from __future__ import annotations

import importlib
import json
import platform
import sys
from pathlib import Path

from ramnas_edge.board.device import this_device
from ramnas_models.files import write_file


def main(names: list[str]) -> None:
    results = {}
    files = sorted(Path(__file__).parent.glob("bench_*.py"))
    for file in [f for f in files if not names or f.stem[len("bench_") :] in names]:
        module = importlib.import_module(f"tests.benchmarks.{file.stem}")
        print(f"== {file.stem}: {module.__doc__.splitlines()[0]}", flush=True)
        results[file.stem] = found = module.run()
        for key, value in found.items():
            print(f"   {key}: {value:.3g}" if isinstance(value, float) else f"   {key}: {value}")
    if names:  # benchmarks.json holds only whole runs
        return
    device = this_device()
    machine = {"module": device.module, "cores": device.cores, "python": platform.python_version()}
    content = {"machine": machine, "results": results}
    write_file(Path("benchmarks.json"), json.dumps(content, indent=1).encode() + b"\n")
    print("results written to benchmarks.json")


if __name__ == "__main__":
    main(sys.argv[1:])
