import os

# Before torch is imported anywhere: tests share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
