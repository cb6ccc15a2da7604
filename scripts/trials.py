#!/usr/bin/env python3
"""Breaks runs on purpose and counts what was lost: kill -9, signals, full disks, lost output, two processes at once.

    cargo build && python3 scripts/trials.py            # all of it, some minutes
    python3 scripts/trials.py --short                   # a few of each, as CI runs it
    python3 scripts/trials.py --only kill --count 70    # one kind
    python3 scripts/trials.py --binary target/release/tracknet --seed 7

Every trial works in a directory of its own, with a stranger's files beside everything that is written. A trial fails when a
process panics, when a file of the stranger's changes, when a temporary file stays after the next start, when a run cannot
be continued from its last checkpoint, or when the continued run ends with other weights or metrics than the one that was
never broken. The delays are drawn from --seed. Exit code 0: nothing was lost. Needs Python 3.9 or newer, and ffmpeg; the
trials of full disks mount a small tmpfs, which needs root, and say so when they are left out.
"""

import argparse
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "data.root=rallies",
    "data.split.train_games=[game1]",
    "data.split.val_games=[game2]",
    "data.preprocess.resize=[96,64]",
    "model.pretrained_model_name=null",
    "model.backbone.architecture={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}",
    "model.decoder.channels=[32,16]",
    "model.decoder.upsample=[2]",
    "model.heatmap.size=[24,16]",
    "training.batch_size=2",
    "training.precision=fp32",
    "training.backbone_freeze_epochs=0",
    "training.scheduler.warmup_epochs=0",
    "training.data_loader.num_workers=1",
]
EPOCHS = 8
FRAMES = 24
# Frames of a folder that takes some seconds to predict on.
MANY = 1200
# Of a metrics file: what depends on the clock.
TIMES = {"frames_per_s", "seconds"}
# A stranger's names, chosen to be near those that the program uses.
STRANGERS = ["last.old/mine", "best.old/mine", "last.tmp/mine", ".last/mine", "notes.txt", "v1.old/mine", "rally.old"]


class Failure(Exception):
    """What a trial lost, in words."""


class Place:
    """A directory of a trial: data, a stranger's files, and the commands that run in it."""

    def __init__(self, arguments, directory):
        self.binary = arguments.binary
        self.path = Path(directory)

    def command(self, *words):
        return [str(self.binary), *map(str, words)]

    def train(self, output="runs"):
        epochs = f"training.epochs={EPOCHS}"
        return self.command("train", "--model", "vit_heatmap", "--output-dir", output, *TINY, epochs)

    def start(self, command, **options):
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(command, cwd=self.path, stdin=subprocess.DEVNULL, **options)

    def run(self, command, code=0):
        process = self.start(command)
        out, err = process.communicate(timeout=300)
        text = (out + err).decode(errors="replace")
        no_panic(text)
        if code is not None and process.returncode != code:
            raise Failure(f"exit code {process.returncode} instead of {code}: {' '.join(command[1:4])}\n{text[-1500:]}")
        return process.returncode, text

    def strangers(self, parent):
        for name in STRANGERS:
            path = self.path / parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{parent}/{name} is not tracknet's\n")

    def runs(self):
        return sorted(path for path in (self.path / "runs").glob("run-*") if path.is_dir())


def no_panic(text):
    if "panicked" in text or "RUST_BACKTRACE" in text:
        raise Failure("a panic: " + text[-1500:])


def tree(path):
    """What is below a directory that a stranger owns: every file that carries a stranger's mark, by its content."""
    found = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.is_symlink():
            data = file.read_bytes()
            if data.endswith(b"is not tracknet's\n"):
                found[str(file)] = data
    return found


def leftovers(path):
    return [str(file) for file in path.rglob(".tracknet-*")]


def weights(run):
    """Every tensor file of a run's checkpoints, hashed."""
    files = sorted(run.glob("checkpoints/*/**/*.safetensors"))
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def metrics(run):
    rows = [json.loads(line) for line in (run / "logs/metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def make_data(place):
    place.run(place.command("data", "generate", "rallies", "--games", 2, "--clips", 1, "--frames", FRAMES, "--size", "96x64"))


def reference(place):
    """The run that nobody breaks, and how long it takes."""
    clock = time.monotonic()
    place.run(place.train())
    return place.runs()[0], time.monotonic() - clock


def resume_until_done(place, run, expected):
    """Continues a broken run as often as it takes; it must end as the one that was never broken."""
    if not (run / "checkpoints/last").is_dir():
        # Broken before the first checkpoint: nothing was computed that could be lost.
        return "before the first checkpoint"
    place.run(place.command("train", "--resume", run))
    if weights(run) != expected["weights"]:
        raise Failure(f"{run.name}: other weights than those of the run that was not broken")
    if metrics(run) != expected["metrics"]:
        raise Failure(f"{run.name}: other metrics than those of the run that was not broken")
    if left := leftovers(run):
        raise Failure(f"left after the next start: {left}")
    return "continued"


def break_after(place, delay, number, command):
    """Starts a command and sends it a signal after a while."""
    process = place.start(command)
    try:
        out, err = process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    text = (out + err).decode(errors="replace")
    no_panic(text)
    return process.returncode, text


def trial_kill(place, draw, expected):
    """kill -9 at any moment: the run goes on from its last checkpoint and ends as if nothing had been."""
    break_after(place, draw.uniform(0, expected["seconds"]), signal.SIGKILL, place.train())
    for run in place.runs():
        place.strangers(run.relative_to(place.path) / "checkpoints")
        # Broken again while it is continued.
        if (run / "checkpoints/last").is_dir():
            again = place.command("train", "--resume", run)
            break_after(place, draw.uniform(0, expected["seconds"] / 2), signal.SIGKILL, again)
        return resume_until_done(place, run, expected)
    return "before the run had a directory"


def trial_signal(place, draw, expected):
    """SIGINT, SIGTERM and SIGHUP finish the step, write a checkpoint and leave with 128 plus their number."""
    number = draw.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    code, text = break_after(place, draw.uniform(0.3, 1) * expected["seconds"], number, place.train())
    if code not in (0, 128 + number, -number):
        raise Failure(f"exit code {code} after signal {number}: {text[-800:]}")
    if code == -number and place.runs() and (place.runs()[0] / "logs").exists():
        raise Failure(f"signal {number} ended a run that had begun without a checkpoint")
    return resume_until_done(place, place.runs()[0], expected) if place.runs() else "before the run had a directory"


def trial_output(place, draw, expected):
    """Losing standard output or error ends nothing."""
    command = place.train()
    kind = draw.choice(["closed", "full", "left"])
    if kind == "left":
        process = place.start(command, stderr=subprocess.STDOUT)
        process.stdout.readline()
        process.stdout.close()
        code = process.wait(timeout=300)
    else:
        with open("/dev/full" if kind == "full" else os.devnull, "wb") as target:
            close = (lambda: (os.close(1), os.close(2))) if kind == "closed" else None
            code = place.start(command, stdout=target, stderr=target, preexec_fn=close).wait(timeout=300)
    # A full standard output is an error at the very end, after everything was written.
    if code not in (0, 1) or (code == 1 and kind != "full"):
        raise Failure(f"standard output and error {kind}: exit code {code}")
    run = place.runs()[0]
    if weights(run) != expected["weights"]:
        raise Failure(f"standard output and error {kind}: other weights")
    return kind


def trial_two(place, draw, expected):
    """Two processes on one run: one holds it, the other is told so. Two new runs at once: two directories."""
    first, second = place.start(place.train()), place.start(place.train())
    for process in (first, second):
        out, err = process.communicate(timeout=300)
        no_panic((out + err).decode(errors="replace"))
        if process.returncode != 0:
            raise Failure(f"a new run beside another: {err.decode(errors='replace')[-800:]}")
    runs = place.runs()
    if len(runs) != 2:
        raise Failure(f"two runs share {runs}")
    run = runs[0]
    resume = place.command("train", "--resume", run, f"training.epochs={EPOCHS + 2}")
    pair = [place.start(resume)]
    time.sleep(draw.uniform(0, 0.5))
    pair.append(place.start(resume))
    codes, texts = [], []
    for process in pair:
        out, err = process.communicate(timeout=300)
        text = (out + err).decode(errors="replace")
        no_panic(text)
        codes.append(process.returncode)
        texts.append(text)
    refused = [text for code, text in zip(codes, texts) if code != 0]
    if codes.count(0) == 2:
        return "one after the other"
    if codes.count(0) != 1 or "in use by process" not in refused[0]:
        raise Failure(f"exit codes {codes}: {refused[0][-800:]}")
    place.run(place.command("eval", run))
    return "one refused"


def trial_full(place, draw, expected):
    """A disk that fills up: a clear error, what was there stays whole, nothing broken under a final name."""
    disk = place.path / "disk"
    disk.mkdir()
    # The run takes some 700 KiB, the prediction some 400.
    size = draw.randrange(64, 900, 16)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        return "left out: mounting a tmpfs needs root"
    try:
        code, text = place.run(place.train("disk"), code=None)
        if code != 0 and "No space left" not in text:
            raise Failure(f"{size} KiB, training: exit code {code}: {text[-800:]}")
        for state in disk.glob("run-*/checkpoints/*/state.json"):
            place.run(place.command("inspect", state.parent))
        for path in disk.glob("run-*"):
            shutil.rmtree(path)
        run = expected["run"]
        code, text = place.run(place.command("predict", run, "rallies/game1/Clip1", "--video", "--overlays", "--output", "disk/found"), code=None)
        if code != 0 and "No space left" not in text:
            raise Failure(f"{size} KiB, predict: exit code {code}: {text[-800:]}")
        for video in disk.rglob("*.mp4"):
            if video.name.startswith("."):
                continue
            played = subprocess.run(["ffmpeg", "-v", "error", "-i", str(video), "-f", "null", "-"], capture_output=True)
            if played.returncode != 0 or played.stderr:
                raise Failure(f"{size} KiB: a broken video under its final name: {played.stderr[-300:]}")
        return "filled" if code != 0 else "large enough"
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def trial_predict(place, draw, expected):
    """A prediction that is broken leaves every row that it had found; a source is never written over."""
    run, frames = expected["run"], place.path / "frames"
    shutil.copytree(place.path / "rallies/game1/Clip1", frames)
    for number in range(FRAMES, MANY):
        shutil.copy(frames / f"{number % FRAMES:04}.jpg", frames / f"{number:04}.jpg")
    (frames / "0003.jpg").write_bytes(b"\xff\xd8\xff\xe0 half a picture")
    number = draw.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    command = place.command("predict", run, "frames", "--output", "found", "--jsonl")
    code, text = break_after(place, draw.uniform(0.2, 3), number, command)
    if number != signal.SIGKILL and code not in (0, 1, 128 + number, -number):
        raise Failure(f"exit code {code} after signal {number}: {text[-800:]}")
    csv = place.path / "found/frames.csv"
    rows = csv.read_text().splitlines()[1:] if csv.exists() else []
    if [row.split(",")[0] for row in rows if row.count(",") == 4] != [str(i) for i in range(len(rows))]:
        raise Failure(f"rows that are not those of the first frames: {rows[:3]} … {rows[-3:]}")
    if code == 128 + number and not rows:
        raise Failure("an interrupted prediction left no row")
    if code == 0 and len(rows) != MANY:
        raise Failure(f"{len(rows)} rows of {MANY} and exit code 0")
    # It goes on to the rows of a prediction that nobody breaks, however often it is broken.
    break_after(place, draw.uniform(0.2, 2), signal.SIGKILL, [*command, "--resume"])
    place.run([*command, "--resume"])
    files = ["found/frames.csv", "found/frames.jsonl"]
    found = [(place.path / name).read_text() for name in files]
    if "rows" not in expected:
        place.run([word if word != "found" else "whole" for word in command])
        expected["rows"] = [(place.path / name.replace("found", "whole")).read_text() for name in files]
    if found != expected["rows"]:
        raise Failure("a prediction that went on has other rows than one that nobody broke")
    subprocess.run(["ffmpeg", "-v", "error", "-i", frames / "%04d.jpg", "-frames:v", "3", place.path / "rally.mp4"], check=True)
    before = (place.path / "rally.mp4").read_bytes()
    refused, _ = place.run(place.command("predict", run, "rally.mp4", "--video", "--output", "."), code=None)
    if refused == 0 or (place.path / "rally.mp4").read_bytes() != before:
        raise Failure("predict --video --output . wrote over its source")
    return f"broken by {signal.Signals(number).name}" if len(rows) < MANY else "done before the signal"


def trial_label(place, draw, expected):
    """kill -9 while labels come in: every label that was answered is in its file."""
    labels = [place.path / f"rallies/game{game}/Clip1/Label.csv" for game in (1, 2)]
    for path in labels:
        path.unlink()
    place.strangers("rallies/game1")
    process = place.start(place.command("label", "rallies", "--port", 0))
    address = next(line for line in process.stdout if b"http://" in line).decode().split()[1]
    end, answered = time.monotonic() + draw.uniform(0.01, 0.4), {}
    killer = threading.Timer(end - time.monotonic(), process.kill)
    killer.start()
    for count in range(10_000):
        frame = draw.randrange(2 * FRAMES)
        label = {"visibility": 1, "x": count % 96, "y": frame}
        body = json.dumps({"frame": frame, "was": answered.get(frame), "label": label}).encode()
        request = urllib.request.Request(f"{address}api/label", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10):
                answered[frame] = label
        except (OSError, http.client.HTTPException):
            break
    killer.join()
    process.communicate()
    written = {}
    for game, path in enumerate(labels):
        for row in path.read_text().splitlines()[1:] if path.exists() else []:
            name, _, x, y, _ = row.split(",")
            written[game * FRAMES + int(name[:4])] = (int(x), int(y))
    # The label that was on its way when the server was killed may be there or not.
    lost = [frame for frame, label in answered.items() if written.get(frame) != (label["x"], label["y"])]
    if [other for other in lost if other != frame] or len(written) > len(answered) + 1:
        raise Failure(f"labels that were answered are not in their files: {lost}")
    process = place.start(place.command("label", "rallies", "--port", 0))
    next(line for line in process.stdout if b"http://" in line)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    if process.returncode != 143:
        raise Failure(f"exit code {process.returncode} after SIGTERM: {said[-500:]}")
    return "killed" if answered else "killed before the first label"


def trial_strangers(place, draw, expected):
    """Verbs that write directories beside a stranger's: nothing of the stranger's changes, taken names are refused."""
    model = place.path / "model"
    shutil.copytree(ROOT / "assets/vit-tiny-tennis", model)
    place.strangers(".")
    for verb in (["quantize", "model", "v1.2"], ["dequantize", "v1.2", "v1.3"], ["export", expected["run"], "v1.4"]):
        code, text = place.run(place.command(*verb), code=None)
        if code != 0 and "adapters" not in text:
            raise Failure(f"{verb}: {text[-500:]}")
    for taken in ("v1.old", "rally.old", "notes.txt", "model"):
        code, text = place.run(place.command("quantize", "model", taken), code=1)
        if "panicked" in text:
            raise Failure(text)
    return "refused"


KINDS = {
    "kill": (trial_kill, 70, 6),
    "signal": (trial_signal, 30, 4),
    "output": (trial_output, 12, 3),
    "two": (trial_two, 8, 2),
    "full": (trial_full, 24, 3),
    "predict": (trial_predict, 20, 3),
    "label": (trial_label, 20, 3),
    "strangers": (trial_strangers, 1, 1),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/debug/tracknet")
    parser.add_argument("--only", choices=KINDS, help="one kind of trial")
    parser.add_argument("--count", type=int, help="trials of each kind")
    parser.add_argument("--short", action="store_true", help="a few of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.binary = arguments.binary.resolve()
    failed = passed = 0
    with tempfile.TemporaryDirectory(prefix="trials-") as top:
        base = Place(arguments, Path(top) / "base")
        base.path.mkdir()
        make_data(base)
        run, seconds = reference(base)
        expected = {"run": run, "seconds": seconds, "weights": weights(run), "metrics": metrics(run)}
        print(f"a run that nobody breaks takes {seconds:.1f} s", flush=True)
        for kind, (trial, long, short) in KINDS.items():
            if arguments.only not in (None, kind):
                continue
            seen = {}
            for number in range(arguments.count or (short if arguments.short else long)):
                place = Place(arguments, Path(top) / f"{kind}-{number}")
                place.path.mkdir()
                shutil.copytree(base.path / "rallies", place.path / "rallies")
                place.strangers("runs")
                before = tree(place.path)
                draw = random.Random(f"{arguments.seed}-{kind}-{number}")
                try:
                    what = trial(place, draw, expected)
                    after = tree(place.path)
                    if changed := [name for name in before if after.get(name) != before[name]]:
                        raise Failure(f"a stranger's files changed: {changed}")
                    seen[what] = seen.get(what, 0) + 1
                    passed += 1
                except Failure as problem:
                    failed += 1
                    print(f"FAILED {kind} {number} (--seed {arguments.seed}): {problem}", flush=True)
                shutil.rmtree(place.path, ignore_errors=True)
            print(f"{kind:9}  {sum(seen.values())} well: {', '.join(f'{n} {what}' for what, n in seen.items())}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
