#!/usr/bin/env python3
"""A person's path with labels that are known: a rendered match as a video, a prediction, labels where the model asks for them, a
training on them, the same prediction again (docs/label.md).

  label_walk.py TRACKNET RUN OUT [--labels 30] [--frames 300] [--clips 1] [--look beach] [--seed 5] [--set SECTION.KEY=VALUE ...]

TRACKNET  the program; run it where `assets` and `configs` are
RUN       the run that proposes and that training begins with
OUT       a directory that is not there yet

The person who labels is this script: it asks the page's server for the next frame in doubt and answers with the label of the renderer.
Prints F1 within 4 pixels of 512×288 on the frames that were not labelled, before and after. Needs Python 3.9 and ffmpeg.
"""
import argparse
import csv
import json
import os
import signal
import subprocess
import time
import urllib.request


def call(args, *words):
    subprocess.run([args.tracknet, *map(str, words)], check=True)


def truth_of(root, clips):
    """The labels of the rendered frames in the order of the video: a position, or None."""
    truth = []
    for clip in range(1, clips + 1):
        with open(f"{root}/game1/Clip{clip}/Label.csv", newline="") as file:
            for row in csv.DictReader(file):
                absent = row["visibility"] == "0"
                truth.append(None if absent else (float(row["x-coordinate"]), float(row["y-coordinate"])))
    return truth


def f1(path, truth, left_out):
    """F1 of the rows of a prediction, those of some frames left out; a hit is within 10 of 1280 pixels."""
    hits = false = missed = 0
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            frame, found = int(row["Frame"]), row["Visibility"] == "1"
            if frame in left_out:
                continue
            real = truth[frame]
            near = found and real and ((float(row["X"]) - real[0]) ** 2 + (float(row["Y"]) - real[1]) ** 2) ** 0.5 <= 10
            hits += bool(near)
            false += found and not near
            missed += real is not None and not near
    return 2 * hits / max(1, 2 * hits + false + missed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("tracknet", "run", "out"):
        parser.add_argument(name)
    parser.add_argument("--labels", type=int, default=30)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--look", default="beach")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    args = parser.parse_args()
    os.makedirs(args.out)
    rendered, video, data = f"{args.out}/rendered", f"{args.out}/rally.mp4", f"{args.out}/labels"
    call(args, "data", "generate", rendered, "--look", args.look, "--games", 1, "--clips", args.clips, "--frames", args.frames, "--seed", args.seed)
    truth = truth_of(rendered, args.clips)
    names = [f"{rendered}/game1/Clip{clip}/{frame:04}.jpg" for clip in range(1, args.clips + 1) for frame in range(args.frames)]
    with open(f"{args.out}/frames.txt", "w") as file:
        file.writelines(f"file '{os.path.abspath(name)}'\nduration 0.04\n" for name in names)
    ffmpeg = ["ffmpeg", "-nostdin", "-v", "error", "-f", "concat", "-safe", "0", "-r", "25", "-i", f"{args.out}/frames.txt"]
    subprocess.run([*ffmpeg, "-r", "25", "-frames:v", str(len(names)), "-pix_fmt", "yuv420p", "-crf", "20", video], check=True)
    clock = time.monotonic()
    call(args, "predict", args.run, video, "--output", f"{args.out}/before")
    times = {"predict": time.monotonic() - clock}

    command = [args.tracknet, "label", video, "--run", args.run, "--output", data, "--port", "0", *args.overrides]
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    address = next(line for line in server.stdout if "http://" in line).split()[1]

    def ask(path, body=None):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(address + path, None if body is None else json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    clock = time.monotonic()
    while ask("api/changes?since=0")["progress"]["proposed"] < len(names):
        time.sleep(0.5)
    times["proposals"] = time.monotonic() - clock
    labelled = set()
    while len(labelled) < args.labels:
        frame = ask("api/next")["frame"]
        number = int(ask(f"api/frame/{frame}")["name"].split(".")[0])
        x, y = truth[number] or (None, None)
        label = {"visibility": 0 if x is None else 1, "x": x, "y": y}
        ask("api/label", {"frame": frame, "was": None, "label": label})
        labelled.add(number)
    clock = time.monotonic()
    ask("api/train", {})
    while (progress := ask("api/changes?since=0")["progress"])["training"]:
        time.sleep(1)
    times["training"] = time.monotonic() - clock
    server.send_signal(signal.SIGINT)
    server.wait()
    said = progress["said"]
    if not said.startswith("trained: "):
        raise SystemExit(said)
    run = said.removeprefix("trained: ")
    call(args, "predict", run, video, "--output", f"{args.out}/after")
    scores = [round(f1(f"{args.out}/{when}/rally.csv", truth, labelled), 4) for when in ("before", "after")]
    result = dict(labels=len(labelled), frames=len(names) - len(labelled), before=scores[0], after=scores[1], run=run)
    print(json.dumps(result | {f"{name}_s": round(seconds) for name, seconds in times.items()}))


if __name__ == "__main__":
    main()
