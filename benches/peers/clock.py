"""The clock of both scripts: warm up, then repetitions of as many runs as take 20 ms with one wait at the end, as the bench `versus` has it."""
import os
import time

import torch

DEVICE = os.environ.get("PEERS_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
SPAN = float(os.environ.get("PEERS_SPAN", "1.5"))  # seconds of warm-up, and of repetitions
REPETITIONS = 3  # at least: some of these take many seconds
torch.set_num_threads(int(os.environ.get("PEERS_THREADS", os.cpu_count())))


def wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def about(who="torch"):
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"info\t{who}\tversion\ttorch {torch.__version__}", f"info\t{who}\tdevice\t{device}", sep="\n", flush=True)


def measure(who, name, run, scale=1.0, before=lambda: None):
    """Prints the median and the minimum of one `run`, times `scale`, in microseconds."""

    def timed(runs):
        before()
        wait()
        start = time.perf_counter()
        for _ in range(runs):
            run()
        wait()
        return (time.perf_counter() - start) / runs

    began, once, turns = time.perf_counter(), float("inf"), 0
    # What takes long is warm after one run.
    while turns < 1 or (time.perf_counter() - began < SPAN and turns < 1000):
        once, turns = min(once, timed(1)), turns + 1
    runs = next((1 << i for i in range(7) if (1 << i) * once > 0.02), 64)
    if once < SPAN:
        timed(runs)
    began, times = time.perf_counter(), []
    while time.perf_counter() - began < SPAN or len(times) < REPETITIONS:
        times.append(timed(runs))
    times = sorted(t * scale * 1e6 for t in times)
    print(f"time\t{who}\t{name}\t{times[len(times) // 2]:.2f}\t{times[0]:.2f}\t{len(times)}", flush=True)
