"""All that torchvision's ordinary wheel lacks beside torch's CPU build: two operators, by name alone.

Importing this lets torchvision be imported, and with it what imports it: transformers, diffusers, the oracles.
"""

import torch

library = torch.library.Library("torchvision", "DEF")  # alive as long as this module
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
