"""Run every benchmark of this folder, print its ratios, write benchmarks.json."""

from __future__ import annotations

import importlib
import json
import platform
from pathlib import Path

from ramnas_edge.device import this_device
from ramnas_models.files import write_file


def main() -> None:
    results = {}
    for file in sorted(Path(__file__).parent.glob("bench_*.py")):
        module = importlib.import_module(f"tests.benchmarks.{file.stem}")
        print(f"== {file.stem}: {module.__doc__.splitlines()[0]}", flush=True)
        results[file.stem] = found = module.run()
        for key, value in found.items():
            print(f"   {key}: {value:.3g}" if isinstance(value, float) else f"   {key}: {value}")
    device = this_device()
    machine = {"module": device.module, "cores": device.cores, "python": platform.python_version()}
    content = {"machine": machine, "results": results}
    write_file(Path("benchmarks.json"), json.dumps(content, indent=1).encode() + b"\n")
    print("written: benchmarks.json")


if __name__ == "__main__":
    main()
