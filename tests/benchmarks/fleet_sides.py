"""The processes of bench_fleet: a real host, and many agents that share one process.

The agents speak the real protocol over real sockets with CURVE. Their profiler is a stand-in.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
import zmq

from ramnas_edge.board.device import Device
from ramnas_edge.fleet import keys, wire
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.profiler import failed
from ramnas_edge.measuring.record import Block, LatencyRecord, Target, Visit, statistics
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet import host, router
from ramnas_host.fleet.authentication import Door
from ramnas_models.space import Arch, load_space

CLASSES = 10
RUNS = 6  # timed runs of a visit, as for a network of table1 that takes a millisecond or more
SPACE = load_space("table1")
TARGET = Target()


def serve(args: argparse.Namespace) -> None:
    """Serve until killed. Print a line of JSON each second: time, committed records, CPU seconds of
    the process, its MiB, and CPU seconds of its main thread."""
    if args.one_by_one:
        router.GROUP = 1  # the peer: one commit and one Ack per record
    rng = np.random.default_rng(0)
    archs = list({SPACE.sample(rng) for _ in range(args.archs)})
    request = Request("bench", SPACE, TARGET, archs)
    process = psutil.Process()

    def on_status(status: object) -> None:
        used = process.cpu_times()
        threads = {t.id: t.user_time + t.system_time for t in process.threads()}
        committed = sum(board.shown.done for board in serving.roster.boards.values())
        line = (time.monotonic(), committed, used.user + used.system,
                process.memory_info().rss / 2**20, threads.get(process.pid, 0.0))  # fmt: skip
        print(json.dumps(line), flush=True)

    door = Door("tcp://127.0.0.1:*", args.folder / "host.key_secret")
    serving = host.Host(request, Store(args.folder / "records.sqlite"), door, on_status)
    print(json.dumps(serving.endpoint), flush=True)
    serving.serve()


class Agent:
    """A board that takes blocks, needs `block_s` for each, and sends their records."""

    def __init__(self, context: zmq.Context, args: argparse.Namespace, number: int) -> None:
        self.number, self.args = number, args
        self.rng = random.Random(number)
        self.device = Device(f"board {number % CLASSES}", 4, 8, "Linux")
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, f"board-{number}".encode())
        keys.client_options(
            self.socket,
            args.own,
            args.server,
        )
        self.socket.connect(args.endpoint)
        self.holding: dict[str, Block] = {}
        self.device_class, self.welcomed = "", False
        self.sent: dict[str, float] = {}
        self.greet()

    def greet(self) -> None:
        holding = tuple(
            wire.Holding(job, tuple(arch.id for arch in block.archs))
            for job, block in self.holding.items()
        )
        engines = (("onnxruntime-cpu", "1.2"),)
        who = (str(self.number), "1", "bench")
        self.send(wire.Hello(wire.PROTOCOL, self.device, engines, *who, holding))

    @property
    def room(self) -> int:
        return 1 - len(self.holding)

    def send(self, message: wire.FromBoard) -> None:
        self.socket.send(wire.encode(message))

    def received(self, now: float, due: list, acks: list) -> None:
        while True:
            try:
                data = self.socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            message = wire.decode_from_host(data)
            if isinstance(message, wire.Ack):
                for key in message.keys:
                    sent_s = self.sent.pop(key[2], None)
                    if sent_s is not None:
                        acks.append((now, now - sent_s))
            elif isinstance(message, wire.Greet):
                self.greet()
            elif isinstance(message, wire.Welcome) and self.welcomed:
                self.send(messages.Ready(1))
            elif isinstance(message, wire.Welcome):
                self.welcomed = True
                # spread over the time of a block, as if the boards had come at any time
                at = now + self.rng.uniform(0, self.args.block_s)
                heapq.heappush(due, (at, self.number, "ask", ""))
                heapq.heappush(due, (at, self.number, "beat", ""))
            elif isinstance(message, messages.Job):
                if message.block.id in self.holding:
                    continue
                self.device_class = message.device_class
                self.holding[message.block.id] = message.block
                took_s = self.args.block_s * self.rng.uniform(0.8, 1.2)
                heapq.heappush(due, (now + took_s, self.number, "done", message.block.id))
                if self.args.progress:
                    heapq.heappush(due, (now, self.number, "visit", message.block.id))

    def act(self, what: str, job: str, now: float, due: list) -> None:
        if what == "ask":
            self.send(messages.Ready(1))
        elif what == "beat":
            self.send(wire.Heartbeat(self.room, tuple(self.holding), len(self.sent), 50.0, "MAXN"))
            heapq.heappush(due, (now + wire.HEARTBEAT_S, self.number, "beat", ""))
        elif what == "visit" and job in self.holding:
            block = self.holding[job]
            total = block.rounds * (len(block.archs) + 2 * len(block.anchors))
            visit = Visit(block.archs[0].id, job, 0, 1, (1.5,) * RUNS)
            self.send(messages.Visited(visit, 1, total))
            again = now + max(self.args.block_s / total, wire.PROGRESS_S)
            heapq.heappush(due, (again, self.number, "visit", job))
        elif what == "done":
            block = self.holding.pop(job)
            for arch in block.archs:
                record = PROFILER.record(arch, job, self.device_class)
                self.sent[record.arch_id] = time.monotonic()
                self.send(messages.Measured(record))
            self.send(messages.Ready(1))


class Profiler:
    """Makes records as large as real ones: 8 visits of the arch and 32 of the anchors."""

    def __init__(self) -> None:
        self.times = tuple(np.random.default_rng(0).uniform(1.2, 1.3, RUNS).tolist())
        ids = [arch.id for arch in Request("", SPACE, TARGET, []).anchors()] * 2
        anchors = tuple(self.visit(ids[j], "0123456789ab", i) for i in range(8) for j in range(4))
        arch = SPACE.min()
        blank = failed(Block("", "bench", TARGET, (), ()), arch, SPACE, "", "")
        self.template = msgspec.structs.replace(
            blank, validity="ok", anchors=anchors, providers=("CPUExecutionProvider",),
            engine_version="1.2", **statistics([self.visit("", "", 0)]),
        )  # fmt: skip

    def visit(self, arch_id: str, job: str, i: int) -> Visit:
        return Visit(arch_id, job, i, 1, self.times, 1.5, 1.6)

    def record(self, arch: Arch, job: str, device_class: str) -> LatencyRecord:
        arch_id = arch.id
        return msgspec.structs.replace(
            self.template, arch=arch, arch_id=arch_id, input_hw=TARGET.hw(arch),
            device_class=device_class,
            visits=tuple(self.visit(arch_id, job, i) for i in range(8)),
        )  # fmt: skip


PROFILER = Profiler()


def agents(args: argparse.Namespace) -> None:
    """Work until a line comes on stdin; then print every acknowledgement as [time, wait in s]."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    args.own = keys.load_keys(args.folder / "board.key_secret")
    args.server = keys.load_public(args.folder / "host.key")
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4096)
    fleet: dict[int, Agent] = {}
    poller, of_socket = zmq.Poller(), {}
    to_come = list(range(args.first, args.first + args.count))
    due: list[tuple[float, int, str, str]] = []
    acks: list[tuple[float, float]] = []
    while not stop.is_set():
        for number in to_come[:20]:  # they come one after the other, as real boards do
            agent = fleet[number] = Agent(context, args, number)
            poller.register(agent.socket, zmq.POLLIN)
            of_socket[agent.socket] = agent
        del to_come[:20]
        now = time.monotonic()
        wait_ms = 1e3 * (due[0][0] - now) if due else 100.0
        for socket, _ in poller.poll(min(max(wait_ms, 5.0), 100.0)):
            of_socket[socket].received(time.monotonic(), due, acks)
        now = time.monotonic()
        while due and due[0][0] <= now:
            _, number, what, job = heapq.heappop(due)
            fleet[number].act(what, job, now, due)
    print(json.dumps(acks), flush=True)
    context.destroy(linger=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sides = parser.add_subparsers(required=True)
    side = sides.add_parser("host")
    side.add_argument("--folder", type=Path)
    side.add_argument("--archs", type=int)
    side.add_argument("--one-by-one", action="store_true")
    side.set_defaults(call=serve)
    side = sides.add_parser("agents")
    side.add_argument("--folder", type=Path)
    side.add_argument("--endpoint")
    side.add_argument("--first", type=int)
    side.add_argument("--count", type=int)
    side.add_argument("--block-s", type=float)
    side.add_argument("--progress", action="store_true")
    side.set_defaults(call=agents)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
