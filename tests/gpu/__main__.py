"""Run the sections, each in a process of its own with a time limit, and print one table.

`python -m tests.gpu`; tests/gpu/run.sh calls it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generator, List, Optional, Tuple

from ramnas_models.files import write_file
from tests.gpu.table import HEADER, Row, markdown, one_line


@dataclass(frozen=True)
class Task:
    """A section, or a part of one that needs a limit of its own.

    `module` is the file in tests/gpu with its function `run`, which gets `arguments`. With --quick
    the limit is `quick_limit_s`, and a task where that is None is left out.
    """

    section: str
    module: str
    limit_s: float
    arguments: Tuple[str, ...] = ()
    quick_limit_s: Optional[float] = 120.0


# The most important ones first: what comes last is cut off if the budget is too small. With
# --quick a compiled step has no time to finish, which shows what the table says then.
TASKS = (
    Task("machine", "machine", 40),
    Task("tests", "marked_tests", 100),
    Task("step", "step", 60, ("bf16",)),
    Task("step", "step", 60, ("fp32",), None),
    Task("step", "step", 60, ("fp16",), None),
    Task("graphs", "graphs", 80),
    Task("one rank", "one_rank", 40),
    Task("evaluation", "evaluation", 40),
    Task("calibration", "calibration", 100),
    Task("compiled step", "step", 90, ("bf16", "compiled"), 1),
    Task("compiled step", "step", 90, ("fp32", "compiled"), None),
    Task("compiled step", "step", 90, ("fp16", "compiled"), None),
)


def main(argv: List[str]) -> int:
    """Run the sections and return the exit code: 1 if a row failed."""
    sections = list(dict.fromkeys(task.section for task in TASKS))
    options = argparse.ArgumentParser(prog="tests/gpu/run.sh")
    options.add_argument("--budget", type=float, default=480.0, help="seconds for all sections")
    options.add_argument("--only", nargs="+", choices=sections, metavar="SECTION", default=sections)
    options.add_argument("--quick", action="store_true", help="tiny sizes")
    args = options.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the section
    end = time.monotonic() + args.budget
    out = Path(os.environ.get("OUT") or tempfile.mkdtemp(prefix="ramnas-gpu-"))
    out.mkdir(parents=True, exist_ok=True)
    rows: List[Row] = []
    print(HEADER, flush=True)
    for task in TASKS:
        limit_s = task.quick_limit_s if args.quick else task.limit_s
        if task.section not in args.only or limit_s is None:
            continue
        limit_s = min(limit_s, end - time.monotonic())
        with contextlib.closing(_run(task, limit_s, out, quick=args.quick)) as coming:
            for row in coming:
                print(row.markdown(), flush=True)
                rows.append(row)
                content = json.dumps([asdict(r) for r in rows], indent=1)
                write_file(out / "table.json", f"{content}\n".encode())
                write_file(out / "table.md", markdown(rows).encode())
    print(f"\nthe table and the log of each section: {out}")
    return int(any(row.outcome == "failed" for row in rows))


def _run(task: Task, limit_s: float, out: Path, *, quick: bool) -> Generator[Row, None, None]:
    """Run a task and yield its rows as they come.

    The last row says so if the time was up or the process died.
    """
    if limit_s <= 0:
        yield Row(task.section, ", ".join(task.arguments), "unfinished", note="no time was left")
        return
    log = out / f"{'-'.join([task.module, *task.arguments])}.log"
    command = [sys.executable, "-m", "tests.gpu.task", task.section, task.module, *task.arguments]
    environment = {**os.environ, "LD_LIBRARY_PATH": _libraries()}
    if quick:
        environment["RAMNAS_GPU_QUICK"] = "1"
    begun = ""
    with log.open("wb") as errors, tempfile.TemporaryDirectory() as cache:
        environment |= {
            f"{name}_HOME": cache for name in ("XDG_CACHE", "XDG_STATE", "XDG_CONFIG")
        } | {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor", "TRITON_CACHE_DIR": f"{cache}/triton"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
        )
        assert process.stdout
        killed = threading.Event()

        def time_is_up() -> None:
            killed.set()
            _kill(process)

        timer = threading.Timer(limit_s, time_is_up)
        timer.start()
        try:
            with process.stdout as lines:
                for line in lines:
                    content = json.loads(line)
                    begun = content.get("begins", "")
                    if not begun:
                        yield Row(**content)
            process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                _kill(process)
                process.wait()
    case = begun or ", ".join(task.arguments)
    if killed.is_set():
        note = f"did not finish within {limit_s:.0f} s"
        yield Row(task.section, case, "unfinished", note=note)
    elif process.returncode:
        last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
        note = f"the process ended with {process.returncode}: {one_line(last)}"
        yield Row(task.section, case, "failed", note=note)


def _kill(process: subprocess.Popen[str]) -> None:
    """End a section with all processes that it has started, which are in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _libraries() -> str:
    """LD_LIBRARY_PATH with the CUDA libraries that came with PyTorch, for ONNX Runtime.

    The dynamic linker reads it only when a process starts.
    """
    torch = importlib.util.find_spec("torch")
    folders: List[Path] = []
    if torch and torch.origin:
        folder = Path(torch.origin).parent
        folders = [folder / "lib", *sorted(folder.parent.glob("nvidia/*/lib"))]
    known = os.environ.get("LD_LIBRARY_PATH")
    return os.pathsep.join([*map(str, folders), *([known] if known else [])])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
