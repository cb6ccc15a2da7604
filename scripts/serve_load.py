#!/usr/bin/env python3
"""Load on a `tracknet serve` of this machine: pictures for several adapters, several at once, and bodies that are none.

Prints requests a second, the times of answers, and the server's memory at the start and end; fails when a right request is not
answered, a wrong one is, or the memory grows. Standard library only, the loopback only, bounded in time and count.

  tracknet serve outputs/run-… --adapter clay=… --adapter grass=… --quiet &
  scripts/serve_load.py frames/ --adapters clay,grass --seconds 60 --clients 8
"""

import argparse
import http.client
import json
import pathlib
import random
import sys
import threading
import time

MOST_REQUESTS = 1_000_000
MOST_SECONDS = 3600
# Malformed requests, and those with several pictures, of a hundred.
WRONG, SEVERAL = 5, 5


def metrics(port):
    """Single values of /metrics by name."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {name: float(value) for name, _, value in (line.partition(" ") for line in lines) if value and name != "#"}


def form(pictures):
    """A form of parts `file`, and its media type."""
    boundary = "no-picture-has-this-line"
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'.encode()
    body = b"".join(part + picture + b"\r\n" for picture in pictures) + f"--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body


def wrong(draw, picture):
    """A body that is not what it says, and the statuses that may answer it."""
    return draw.choice([
        ("image/jpeg", picture[: draw.randrange(len(picture) - 2)], {400}),
        ("image/png", draw.randbytes(draw.randrange(1, 5000)), {400}),
        ("multipart/form-data; boundary=x", draw.randbytes(500), {400}),
        ("multipart/form-data", picture, {400}),
        ("text/plain", b"no picture", {415}),
        ("image/jpeg", b"", {400}),
    ])


class Client(threading.Thread):
    """Asks one thing after the other over one connection."""

    def __init__(self, number, options, pictures, adapters, end):
        super().__init__(daemon=True)
        self.draw = random.Random(options.seed * 1000 + number)
        self.options, self.pictures, self.adapters, self.end = options, pictures, adapters, end
        self.seconds, self.statuses, self.found, self.failures = [], {}, 0, []

    def run(self):
        connection = None
        most = MOST_REQUESTS // self.options.clients
        while time.monotonic() < self.end and len(self.seconds) < most:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.options.port, timeout=90)
            if not self.ask(connection):
                connection.close()
                connection = None

    def ask(self, connection):
        """One request; whether its connection can be used again."""
        kind, expected, count = self.draw.randrange(100), {200}, 1
        adapter = self.draw.choice(self.adapters)
        path = "/v1/predict" + (f"?adapter={adapter}" if adapter else "")
        picture = self.draw.choice(self.pictures)
        if kind < WRONG:
            media, body, expected = wrong(self.draw, picture)
        elif kind < WRONG + SEVERAL:
            count = self.draw.randrange(2, 5)
            media, body = form(self.draw.sample(self.pictures, k=min(count, len(self.pictures))))
        else:
            media, body = "image/jpeg", picture
        start = time.monotonic()
        try:
            connection.request("POST", path, body, {"Content-Type": media})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(f"no answer: {error!r}")
            return False
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        if answer.status == 429:
            time.sleep(0.05)
        elif answer.status not in expected:
            self.failures.append(f"{answer.status} to {media}: {text[:200]!r}")
        elif answer.status == 200:
            self.seconds.append(time.monotonic() - start)
            found = json.loads(text)
            self.found += len(found["predictions"])
            if found["adapter"] != (adapter or None):
                self.failures.append(f"asked for {adapter}, got {found['adapter']}")
        return not answer.will_close


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=pathlib.Path, help="a folder with jpg files, also below it")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--adapters", default="", help="names beside the run's own, with commas")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth", type=float, default=64, help="MiB by which memory may grow from a third of the time on")
    options = parser.parse_args()
    pictures = [path.read_bytes() for path in sorted(options.pictures.rglob("*.jpg"))[:200]]
    if not pictures:
        sys.exit(f"{options.pictures}: no jpg files")
    adapters = [None] + [name for name in options.adapters.split(",") if name]
    seconds = min(options.seconds, MOST_SECONDS)
    before, start = metrics(options.port), time.monotonic()
    clients = [Client(n, options, pictures, adapters, start + seconds) for n in range(options.clients)]
    for client in clients:
        client.start()
    memory = []
    while any(client.is_alive() for client in clients):
        time.sleep(1)
        memory.append(metrics(options.port)["process_resident_memory_bytes"] / 2**20)
    took = time.monotonic() - start
    after = metrics(options.port)

    times = sorted(second for client in clients for second in client.seconds)
    statuses = {}
    for client in clients:
        for status, count in client.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    failures = [failure for client in clients for failure in client.failures]
    turns = after["tracknet_batch_size_count"] - before["tracknet_batch_size_count"]
    searched = after["tracknet_pictures_total"] - before["tracknet_pictures_total"]
    early, late = memory[len(memory) // 3], max(memory[len(memory) * 2 // 3:])
    print(f"{options.clients} clients, {took:.0f} s, adapters: {', '.join(name or 'own' for name in adapters)}")
    print(f"answers by status: {dict(sorted(statuses.items()))}")
    print(f"{sum(statuses.values()) / took:.1f} requests/s, {searched / took:.1f} pictures/s, {searched / max(turns, 1):.2f} a turn")
    if times:
        at = lambda share: times[min(int(share * len(times)), len(times) - 1)] * 1e3
        print(f"answers of pictures: p50 {at(0.5):.0f} ms, p90 {at(0.9):.0f} ms, p99 {at(0.99):.0f} ms, longest {at(1):.0f} ms")
    first = before["process_resident_memory_bytes"] / 2**20
    print(f"resident memory: {first:.0f} MiB before, {early:.0f} MiB after a third, {late:.0f} MiB at most in the last third")
    for failure in failures[:10]:
        print(f"failure: {failure}", file=sys.stderr)
    grown = late - early > options.growth
    if grown:
        print(f"failure: memory grew by {late - early:.0f} MiB", file=sys.stderr)
    sys.exit(1 if failures or grown or not times else 0)


if __name__ == "__main__":
    main()
