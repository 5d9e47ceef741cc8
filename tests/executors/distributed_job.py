"""Data-parallel training by torchrun, as the job of one trial: a command, a process for each device, rank 0 reports.

python -m torch.distributed.run --standalone --nproc-per-node={devices} distributed_job.py --lr {lr}
"""

import argparse
import json
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    parser.add_argument("--nap", type=float, default=0.0, help="seconds a step")
    arguments = parser.parse_args()
    start, until = int(os.environ["FRUGALBO_START"]), int(os.environ["FRUGALBO_UNTIL"])
    folder = Path(os.environ["FRUGALBO_CHECKPOINT_DIR"])
    (folder / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))

    dist.init_process_group("gloo")  # "nccl" on GPUs
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(3, 1, bias=False))  # device_ids=[LOCAL_RANK] on GPUs
    if start:
        model.load_state_dict(torch.load(folder / f"step-{start}.ckpt", weights_only=True))
    for step in range(start + 1, until + 1):
        # Each rank has a part of the data: the gradient is the mean over all.
        X = torch.full((5, 3), float(rank + 1))
        loss = (model(X) - 1.0).square().mean()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= arguments.lr * parameter.grad
        dist.all_reduce(loss.detach_(), op=dist.ReduceOp.AVG if dist.get_backend() == "nccl" else dist.ReduceOp.SUM)
        stop = torch.tensor(float(bool(asked)))
        dist.all_reduce(stop)  # all ranks stop at the same step
        if rank == 0:
            if step == until or stop:
                torch.save(model.state_dict(), folder / "new.partial")
                (folder / "new.partial").rename(folder / f"step-{step}.ckpt")
            seen = os.environ["CUDA_VISIBLE_DEVICES"]
            print(json.dumps({"step": step, "loss": loss.item() / world, "world": world}), flush=True)
            if step == 1:
                print(f"sees {seen}", flush=True)
        if stop:
            break
        time.sleep(arguments.nap)
    dist.destroy_process_group()
