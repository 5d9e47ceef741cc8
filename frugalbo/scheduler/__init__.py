"""What happens next: start a configuration, resume a paused one, stop a running one."""
