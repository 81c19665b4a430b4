"""AlexNet up to its last ReLU: the feature network of LPIPS-Alex.

Krizhevsky's one-tower variant (https://arxiv.org/abs/1404.5997). Tensors are named as in torchvision, so
that its ImageNet weights load as they are.
"""

from typing import ClassVar

from torch import Tensor, nn


class AlexNet(nn.Module):
    """Normalised pixels [b,3,h,w] to five taps [b,c,h',w'], one after each ReLU: relu1 ... relu5.

    Normalised as `metrics.psim.normalised` does. h' is about h/4 at the first tap, h/8 at the second and h/16
    from then on; h and w are at least 31 pixels.
    """

    UNUSED: ClassVar[str] = r"classifier\.[146]\.(weight|bias)"  # tensors of the published file that no tap needs
    WIDTHS: ClassVar[tuple[int, ...]] = (64, 192, 384, 256, 256)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        tapped: list[Tensor] = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                tapped.append(x)
        return tapped
