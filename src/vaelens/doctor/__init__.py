"""What this machine can run and whether it gives the right pixels; how its GPUs run VAEs fastest."""
