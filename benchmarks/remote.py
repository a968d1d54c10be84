"""The remote feed against a bare CURVE socket: writer, gateway, broker and reader over TCP on one machine, every byte read.

The ceiling is a PUSH and a PULL socket in two processes, with the same encryption and messages as large as a slot, and nobody who
packs, copies or reads. Each figure is one run in fresh processes; the ways take turns.

    python -m benchmarks remote [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from benchmarks.channel import MEMORY, SPAWN, consume, sources, write_arrow
from benchmarks.machine import machine, show
from tfos_fast.channel import Channel
from tfos_fast.channel.remote.client import RemoteAddress
from tfos_fast.channel.remote.gateway import GatewayConfig, spawn

TOTAL = 1 << 30


def push(endpoint: str, keys: tuple[bytes, bytes, bytes], count: int, size: int, go: Any) -> None:
    context = zmq.Context()
    pusher = context.socket(zmq.PUSH)
    pusher.curve_serverkey, pusher.curve_publickey, pusher.curve_secretkey = keys
    pusher.connect(endpoint)
    blocks = sources(size)
    go.wait()
    for i in range(count):
        pusher.send(blocks[i % len(blocks)], copy=False)
    pusher.close()
    context.term()


def by_bare_curve(size: int, total: int = TOTAL) -> float:
    """Bytes per second from a PUSH to a PULL socket: the ceiling."""
    server_public, server_secret = zmq.curve_keypair()
    client_public, client_secret = zmq.curve_keypair()
    context = zmq.Context()
    puller = context.socket(zmq.PULL)
    puller.curve_server, puller.curve_secretkey = True, server_secret
    port = puller.bind_to_random_port("tcp://127.0.0.1")
    count, go = total // size, SPAWN.Barrier(2)
    keys = (server_public, client_public, client_secret)
    pusher = SPAWN.Process(target=push, args=(f"tcp://127.0.0.1:{port}", keys, count, size, go))
    pusher.start()
    go.wait()
    begin = time.perf_counter()
    for _ in range(count):
        puller.recv(copy=False)
    seconds = time.perf_counter() - begin
    pusher.join()
    puller.close()
    context.term()
    return total / seconds


def by_remote_feed(size: int, total: int = TOTAL) -> float:
    """Bytes per second of Arrow batches as large as a slot, from a remote writer to a reader."""
    server_public, server_secret = zmq.curve_keypair()
    client_public, client_secret = zmq.curve_keypair()
    with Channel.create(MEMORY, slot_bytes=size) as channel, socket.create_server(("127.0.0.1", 0)) as listener:
        config = GatewayConfig(channel.address, listener.fileno(), server_secret.decode(), client_public.decode())
        gateway = spawn(config)
        try:
            endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
            # What consume gives to its writer is the local address; this one goes over the network.
            address = RemoteAddress(endpoint, server_public, client_public, client_secret)
            return consume(channel, partial(write_far, address, block=size), total, size // 8, "x")
        finally:
            gateway.kill()
            gateway.wait()


def write_far(address: RemoteAddress, _: str, total: int, go: Any, block: int) -> None:
    write_arrow(address, total, go, block)


WAYS = {"bare CURVE (ceiling)": by_bare_curve, "remote feed": by_remote_feed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write everything, raw samples included, to this file")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine("numpy", "pyarrow", "pyzmq"), "cases": {}}
    show(report["machine"])
    for size in (1 << 20, 4 << 20):
        samples: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way, run in WAYS.items():
                samples[way].append(run(size) / 1e9)
        report["cases"][f"{size >> 20} MiB"] = samples
        medians = {way: statistics.median(values) for way, values in samples.items()}
        print(f"\nslots of {size >> 20} MiB: median GB/s of {options.repeats}, and its ratio to bare CURVE (bar: 0.6)")
        for way, median in medians.items():
            raw = " ".join(f"{value:.2f}" for value in samples[way])
            print(f"  {way:24} {median:6.2f}   {median / medians['bare CURVE (ceiling)']:5.2f}x   samples {raw}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
