"""vaelens' engine on vaelens' network, read and called as `VAE` does it, between raw z and raw pixels."""

import torch
from resident_memory import read_pages

from peers.job import Job, Loaded
from vaelens import engine
from vaelens.loading import load as load_vae
from vaelens.runtime import dtype_name


def load(job: Job, dtype: torch.dtype = torch.float32) -> Loaded:
    """Packing the weights isn't loading: its time and memory belong to the first call."""
    vae = load_vae(str(job.folder / "vae"), dtype=dtype_name(dtype))
    network = vae.network
    read_pages(network)
    decode = job.task == "decode"
    size = job.input_shape[2], job.input_shape[3]
    plan = (engine.plan_decode if decode else engine.plan_encode)(network, size, job.batch, job.max_memory, vae.dtype)
    run = engine.decode if decode else engine.encode
    notes = {"path": plan.path, "planned peak": f"{plan.peak_bytes / 1e9:.2f} GB"}
    return Loaded(lambda x: run(network, x, max_memory=job.max_memory, dtype=vae.dtype), notes)
