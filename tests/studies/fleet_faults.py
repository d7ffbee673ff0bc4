"""Random faults in a calibration by real processes: is every measurement recorded exactly once?

A host and three boards run as processes, and each board connects through a proxy. Processes are
killed, connections misbehave and disks fill up, at random. Then every record in the store is
compared with the journals in which the boards wrote what they measured.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ramnas_edge.fleet.spool import Spool
from ramnas_edge.measuring.record import LatencyRecord, Target
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.first_archs import first_request
from ramnas_models.space import load_space
from tests.studies.faulty_fleet import Process, Proxy, free_port

KINDS = (
    "agent killed", "host killed", "both killed", "cut", "delay", "double", "reorder", "disk full"
)  # fmt: skip
BOARDS = ("one", "one", "other")  # the module of each: two boards of one class, one of another
SPOOL_KIB = 512


@dataclass
class Outcome:
    """The result of a run; no record may be `lost`, `foreign`, `doubled` or `changed`."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    lost: int = 0
    foreign: int = 0  # for no job
    doubled: int = 0
    changed: int = 0  # with values that are in no journal
    measured: int = 0  # by boards, including what was measured again
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        return not (self.lost or self.foreign or self.doubled or self.changed)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        return (
            f"seed {self.seed}: {sum(self.faults.values())} faults ({kinds}) in "
            f"{self.seconds:.0f} s; {self.jobs} jobs, {self.measured} measured: {self.lost} lost, "
            f"{self.doubled} doubled, {self.changed} changed, {self.foreign} foreign"
        )


def run(
    folder: Path, *, seed: int, faults: int, samples: int, arch_s: float, hurry: float = 1.0
) -> Outcome:
    """Run one calibration with `faults` faults, or fewer if it ends before.

    The seed draws their kinds, times and victims. `hurry` divides the times between faults and the
    times that they last. The first comes when a board has measured something.
    """
    rng = random.Random(seed)
    outcome = Outcome(seed)
    start_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        port = free_port()
        host = Process(
            folder / "host.log", "-m", "ramnas_host", "calibrate", "--space", "micro",
            "--samples", str(samples), "--classes", "10", "--run", "faults", "--json-lines",
            "--store", str(folder / "records.sqlite"), "--bind", f"tcp://127.0.0.1:{port}",
        )  # fmt: skip
        stack.callback(host.kill)
        disks, agents, proxies = [], [], []
        for i, module in enumerate(BOARDS):
            disks.append(stack.enter_context(small_disk(folder / f"disk{i}")))
            proxies.append(Proxy(f"board{i}", port, seed + i))
            stack.callback(proxies[-1].close)
            agents.append(
                Process(
                    folder / f"agent{i}.log", "-m", "tests.studies.faulty_fleet",
                    "--endpoint", f"tcp://127.0.0.1:{proxies[-1].port}", "--name", f"board{i}",
                    "--module", module, "--spool", str(disks[-1] / "spool.sqlite"),
                    "--journal", str(folder / f"journal{i}"), "--arch-s", str(arch_s),
                )
            )  # fmt: skip
            stack.callback(agents[-1].kill)
        kinds = [kind for kind in KINDS if kind != "disk full" or all(map(Path.is_mount, disks))]
        wait_for(lambda: any(path.stat().st_size for path in folder.glob("journal*")))
        for _ in range(faults):
            time.sleep(rng.uniform(0.3, 2.0) / hurry)
            if not host.running:
                break
            kind, victim = rng.choice(kinds), rng.randrange(len(BOARDS))
            lasts_s = rng.uniform(0.2, 4.0) / hurry
            fault(kind, host, agents[victim], proxies[victim], disks[victim], lasts_s)
            outcome.faults[kind] += 1
        host_ends(host, agents)
        outcome.seconds = time.monotonic() - start_s
        for agent in agents:
            agent.kill()
        judge(folder, disks, samples, outcome)
    return outcome


def fault(
    kind: str, host: Process, agent: Process, proxy: Proxy, disk: Path, lasts_s: float
) -> None:
    """Cause a fault that lasts about `lasts_s`. What is killed has been started again when this
    returns; other faults end later by themselves."""
    if kind in ("agent killed", "both killed"):
        agent.kill()
    if kind in ("host killed", "both killed"):
        host.kill()
    if kind.endswith("killed"):
        time.sleep(lasts_s / 4)
        if kind != "agent killed":
            host.start()
        if kind != "host killed":
            agent.start()
        return
    if kind == "disk full":
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            file.write(bytes(2 * SPOOL_KIB * 1024))
        threading.Timer(lasts_s, lambda: filler.unlink(missing_ok=True)).start()
        return
    proxy.trouble = kind
    threading.Timer(lasts_s, lambda: setattr(proxy, "trouble", "")).start()


def wait_for(true: Callable[[], bool], patience_s: float = 300.0) -> None:
    """Wait until it is true; RuntimeError after `patience_s`."""
    end_s = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > end_s:
            raise RuntimeError(f"still waiting after {patience_s:.0f} s")
        time.sleep(0.1)


def host_ends(host: Process, agents: list[Process]) -> None:
    """Wait for the end of the calibration; start agents again that the host sent away too early."""

    def ended() -> bool:
        for agent in agents:
            if not agent.running:
                agent.start()
        return not host.running

    wait_for(ended)
    if host.popen.returncode != 0:
        words = host.log.read_text()[-3000:]
        raise RuntimeError(f"the host ended with code {host.popen.returncode}: {words}")


def judge(folder: Path, disks: list[Path], samples: int, outcome: Outcome) -> None:
    """Compare the store with the jobs, and every record with the journals of the boards."""
    space, target = load_space("micro"), Target(num_classes=10)
    request = first_request("faults", space, target, samples, rounds=8, seed=0)
    store = Store(folder / "records.sqlite")
    records = store.records("faults")
    journal = [
        msgspec.json.decode(line, type=LatencyRecord)
        for path in folder.glob("journal*")
        for line in path.read_bytes().split(b"\n")[:-1]
    ]
    classes = {record.device_class for record in journal}
    jobs = {(c, arch.id) for c in classes for arch in request.archs_of(c)}
    found = Counter((record.device_class, record.arch_id) for record in records)
    outcome.jobs, outcome.measured = len(jobs), len(journal)
    outcome.lost, outcome.foreign = len(jobs - found.keys()), len(found.keys() - jobs)
    outcome.doubled = sum(count - 1 for count in found.values())
    measured = {(r.key, r.visits) for r in journal}
    outcome.changed = sum((record.key, record.visits) not in measured for record in records)
    committed = store.keys("faults")
    for disk in disks:  # the host must have every record that a board still keeps
        spool = Spool(disk / "spool.sqlite")
        outcome.lost += len(spool.waiting("faults").keys() - committed)
        spool.close()
    store.close()


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A small file system that can be filled; a plain folder if this process may not mount one."""
    path.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SPOOL_KIB}k", "none", str(path)]
    mounted = subprocess.run(["mount", *options], capture_output=True).returncode == 0
    try:
        yield path
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="seed of the first run (default: the time)")
    parser.add_argument("--faults", type=int, default=210, help="in all runs together")
    parser.add_argument("--each", type=int, default=30, help="most faults of one run")
    parser.add_argument("--samples", type=int, default=300, help="archs of each class")
    parser.add_argument("--arch-s", type=float, default=0.15, help="seconds for one arch")
    args = parser.parse_args()
    seed = int(time.time()) if args.seed is None else args.seed
    total: Counter[str] = Counter()
    sound = True
    while sum(total.values()) < args.faults:
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(
                Path(folder), seed=seed, faults=min(args.each, args.faults - sum(total.values())),
                samples=args.samples, arch_s=args.arch_s,
            )  # fmt: skip
        print(outcome, flush=True)
        total += outcome.faults
        sound = sound and outcome.sound
        seed += 100
    print(f"{sum(total.values())} faults: {'sound' if sound else 'NOT SOUND'}: {dict(total)}")


if __name__ == "__main__":
    main()
