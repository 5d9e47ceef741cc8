"""Where segments run. Executors never decide; schedulers never see a process."""
