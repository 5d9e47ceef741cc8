"""A run on Ray, or on the engine that is named, to be killed: `ray_controller.py FOLDER [ENGINE]`; `resume` goes on."""

import sys
from pathlib import Path

import frugalbo as fb

HERE = Path(__file__).parent

PROBLEM = fb.Problem(
    name="killed",
    space=fb.Space({"x": fb.Float(0.0, 1.0)}),
    job="local_jobs.py:stays_at_its_middle",
    objective=fb.Minimize("loss"),
    fidelity=fb.Fidelity("steps", 1, 150),
    root=str(HERE),
)

if __name__ == "__main__":
    storage = Path(sys.argv[1]) / "runs.db"
    if sys.argv[2:] == ["resume"]:
        report = fb.resume(storage=storage)
    else:
        engine = sys.argv[2] if sys.argv[2:] else "ray"
        report = fb.tune(
            PROBLEM,
            budget="6 trials",
            method="random",
            scheduler="fixed",
            backend=engine,
            devices=None if engine.endswith(".toml") else "cpu:2",
            storage=storage,
        )
    print(report.stop_reason)
