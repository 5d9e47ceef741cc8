"""Jobs that misbehave, loaded by the template; each does one thing wrong."""

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np

WAIT_S = 60  # of what must be killed; longer than any test


def _note(ctx, name, pid):
    path = ctx.checkpoint_dir / f"{name}.partial"
    path.write_text(str(pid))
    path.rename(ctx.checkpoint_dir / name)


def quick(ctx):
    ctx.report(ctx.until, loss=time.time())


def finds_out(ctx):
    """Print what a job is given."""
    cores = sorted(os.sched_getaffinity(0))
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    print(cores, [os.environ[name] for name in names], ctx.device, ctx.threads, ctx.seed, sys.stdin.read() == "")
    print(random.random(), np.random.random())  # noqa: NPY002
    return 1.0


def infinite(ctx):
    ctx.report(1, loss=1.0)
    ctx.report(2, loss=float("-inf"))


def swallows_divergence(ctx):
    for step in (1, 2):
        with contextlib.suppress(ArithmeticError):
            ctx.report(step, loss=float("nan") if step == 1 else 0.1)


def reports_far_too_much(ctx):
    ctx.report(1, **{"k" * 50_000_000: 1.0})


def prints_for_terminals(ctx):
    print("\x1b]0;title\x07\x1b[31mred\r 10 %\r\n 100 %\x9b2J", flush=True)
    raise ValueError("\x1b[2Jit is\x07 red")


def prints_a_gigabyte(ctx):
    for _ in range(1000):
        os.write(1, b"x" * 1_048_575 + b"\n")
    return 1.0


def dies_before_its_last_report(ctx):
    """The first time, between saving the last granted step and reporting it."""
    for step in range(ctx.start + 1, ctx.until + 1):
        ctx.save(step, lambda path, step=step: path.write_text(str(step)))
        if step == ctx.until and not (ctx.checkpoint_dir / "died").exists():
            (ctx.checkpoint_dir / "died").touch()
            os.kill(os.getppid(), signal.SIGKILL)  # its supervisor, and so itself
            time.sleep(WAIT_S)
        ctx.report(step, loss=1 / step)


def ignores_sigterm(ctx):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctx.report(1, loss=1.0)
    time.sleep(WAIT_S)


def saves_when_asked(ctx):
    ctx.report(1, loss=1.0)
    while not ctx.should_stop:
        time.sleep(0.005)
    ctx.save(1, lambda path: path.write_text("state"))


def allocates_at_once(ctx):
    return float(len(bytearray(20 * 2**30)))


def allocates_in_steps(ctx):
    kept = []
    while True:
        kept.append(os.urandom(2**20) * 8)
        time.sleep(0.002)


def children_allocate(ctx):
    for _ in range(4):
        if os.fork() == 0:
            kept = os.urandom(2**20) * 50
            time.sleep(WAIT_S)
            os._exit(len(kept) > 0)
    time.sleep(WAIT_S)


def forks_six(ctx):
    for _ in range(6):
        if os.fork() == 0:
            time.sleep(WAIT_S)
    time.sleep(0.3)  # six looks at the memory
    return 1.0


def exits_at_once(ctx):
    os._exit(int(ctx.params["x"] * 10))


def exits_by_sys(ctx):
    sys.exit(3)


def reports_then_exits(ctx):
    ctx.report(ctx.until, loss=0.5)
    os._exit(0)


def prints_garbage(ctx):
    os.write(1, bytes(range(256)) * 3 + b"\xff\xfe\x00end")
    sys.stdout.write("\udcff\ud800 text\n")
    raise ValueError("bad \udcff\x00 text")


def prints_far_too_much(ctx):
    line = b"x" * 99 + b"\n"
    for _ in range(100):
        os.write(1, line * 1000)  # 10 MB in all
    os.write(2, b"the last line\n")
    return 1.0


def segfaults(ctx):
    ctypes.string_at(0)


def kills_itself(ctx):
    os.kill(os.getpid(), signal.SIGKILL)


def leaves_children(ctx):
    """A plain child, one in a session of its own, a double fork, a program; then return."""
    for name in ("plain", "setsid", "double"):
        pid = os.fork()
        if pid == 0:
            if name != "plain":
                os.setsid()
            if name == "double" and os.fork():
                os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _note(ctx, name, os.getpid())
            time.sleep(WAIT_S)
            os._exit(0)
    program = subprocess.Popen(["sleep", str(WAIT_S)], env={}, start_new_session=True)
    _note(ctx, "program", program.pid)
    while len(list(ctx.checkpoint_dir.glob("*[!l]"))) < 4:
        time.sleep(0.002)
    if ctx.params["x"] > 0.5:
        ctx.report(1, loss=1.0)
        time.sleep(WAIT_S)
    return 1.0


def forks_without_end(ctx):
    """Each child forks another and dies, in sessions of their own: killed one by one they would escape."""
    ctx.report(1, loss=1.0)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if os.fork():
            if os.getpid() != os.getsid(0):
                time.sleep(WAIT_S)
            os._exit(0)
        os.setsid()


def kills_its_supervisor(ctx):
    parent = os.getppid()
    if os.fork() == 0:
        os.setsid()
        _note(ctx, "orphan", os.getpid())
        time.sleep(WAIT_S)
    while not (ctx.checkpoint_dir / "orphan").exists():
        time.sleep(0.002)
    os.kill(parent, signal.SIGKILL)
    time.sleep(WAIT_S)


def stops_its_supervisor(ctx):
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(WAIT_S)


def hangs_with_its_result(ctx):
    ctx.report(ctx.until, loss=0.5)
    time.sleep(WAIT_S)


def hangs_when_done(ctx):
    import atexit

    atexit.register(time.sleep, WAIT_S)
    return 1.0


def tidies_up_when_done(ctx):
    import atexit

    atexit.register(_note, ctx, "tidy", 1)
    return 1.0


def steps_for_ever(ctx):
    """Report a step every few milliseconds, and keep a checkpoint, without which it does not go on; ends when asked."""
    _steps(ctx, ctx.until)


def stays_at_its_middle(ctx):
    """As `steps_for_ever`, but the third and fourth trial stay at their middle until asked to stop, then resumed."""
    trial = int(ctx.checkpoint_dir.parent.name.removeprefix("trial-"))
    stays = trial in (2, 3) and ctx.start == 0
    _steps(ctx, ctx.until // 2 if stays else ctx.until)
    while stays and not ctx.should_stop:
        time.sleep(0.01)


def _steps(ctx, until):
    ctx.resume()
    for step in range(ctx.start + 1, until + 1):
        time.sleep(0.01)
        ctx.save(step, lambda path: path.write_text("state"))
        ctx.report(step, loss=1 / step)
        if ctx.should_stop:
            return


def stops_in_torch(ctx):
    import torch

    return float(torch.ones(257, 257).matmul(torch.ones(257, 257)).sum() > 0) * torch.get_num_threads()


not_a_function = 3


def sees_devices(ctx):
    """Print what CUDA would see."""
    print(os.environ["CUDA_VISIBLE_DEVICES"])
    return 0.0
