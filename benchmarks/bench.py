"""Time calls side by side: all of them in turn, round after round, in one process.

Before each timed call the same call runs untimed, so that none pays for the memory another has given back."""
import os, platform, re, sys, time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median, quantiles

RESULTS = Path(__file__).resolve().parent.parent/"results"

@dataclass(frozen=True)
class Timing:
    "Seconds of one call, a value for each round: of the processor, and on the clock."
    cpu: tuple[float, ...]
    wall: tuple[float, ...]

def spread(values):
    "Lower quartile, median, upper quartile"
    return tuple(quantiles(values, n=4, method="inclusive")) if len(values) > 1 else (values[0],) * 3

def clocks(call):
    "Processor and wall seconds of one call"
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall

def bench(calls, rounds=7):
    "{name: call} -> {name: Timing}"
    taken = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            taken[name].append(clocks(call))
    return {name: Timing(*zip(*pairs)) for name, pairs in taken.items()}

def peak(call):
    "The most that torch's allocator had given to a call at once, MB"
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: call()
    events = sorted((e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(accumulate(e.nbytes() for e in events), default=0) / 1e6

def ratio(over, under):
    "Quartiles of processor time over processor time, taken within each round"
    return spread([a / max(b, 1e-9) for a, b in zip(over.cpu, under.cpu)])

def table(timings):
    "A line for each call: medians in milliseconds, and the ratio to the first with its quartiles"
    first, wide = next(iter(timings.values())), max(map(len, timings))
    lines = [f"{'':{wide}} {'cpu ms':>9} {'wall ms':>9} {'to the first':>13}  quartiles"]
    for name, t in timings.items():
        low, middle, high = ratio(t, first)
        lines.append(f"{name:{wide}} {1e3 * median(t.cpu):9.2f} {1e3 * median(t.wall):9.2f} {middle:13.2f}  {low:.2f} to {high:.2f}")
    return "\n".join(lines)

def machine():
    "What the figures depend on"
    import torch
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return dict(cpu=named[1] if named else platform.processor() or platform.machine(), instructions=torch.backends.cpu.get_cpu_capability(),
                cores=os.cpu_count(), threads=torch.get_num_threads(), load=load(), python=platform.python_version(), torch=torch.__version__)

def load():
    "Processes that wanted to run in the last minute, on average; None where the system does not say"
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None

def said(facts):
    "The machine in a line, with a warning where it is busy"
    line = "{cpu} ({instructions}), {cores} cores, {threads} threads, load {load}, python {python}, torch {torch}".format(**facts)
    busy = facts["load"] is not None and facts["load"] > facts["cores"] / 2
    return line + f"\nThe load is above {facts['cores'] / 2:g}: other work disturbs these figures. Repeat on an idle machine." * busy

def command():
    "What was typed to get these figures, less the folders of one machine"
    path = Path(sys.argv[0]).resolve()
    return " ".join(["python", f"benchmarks/{path.name}", *("DIR" if Path(word).is_absolute() else word for word in sys.argv[1:])])

if __name__ == "__main__":
    print(said(machine()))
    print(table(bench({"sum of 10⁵": lambda: sum(range(100_000)), "sum of 2·10⁵": lambda: sum(range(200_000))})))
