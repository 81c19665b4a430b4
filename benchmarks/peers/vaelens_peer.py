"""vaelens' engine on vaelens' network, read and called as `VAE` does it, between raw z and raw pixels."""

import torch
from resident_memory import read_pages

from peers.job import Job, Loaded
from vaelens import engine
from vaelens.loading import load as load_vae


def load(job: Job, dtype: torch.dtype = torch.float32) -> Loaded:
    """Packing the weights isn't loading: its time and memory belong to the first call."""
    network = load_vae(str(job.folder / "vae")).to(dtype).network
    read_pages(network)
    decode = job.task == "decode"
    size = job.input_shape[2], job.input_shape[3]
    plan = (engine.plan_decode if decode else engine.plan_encode)(network, size, job.batch, job.max_memory)
    run = engine.decode if decode else engine.encode
    notes = {"path": plan.path, "planned peak": f"{plan.peak_bytes / 1e9:.2f} GB"}
    return Loaded(lambda x: run(network, x.to(dtype), max_memory=job.max_memory).float(), notes)
