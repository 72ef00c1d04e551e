"""Images and encodings as the stages hand them to a first stage, all in memory."""

import torch
import torch.nn.functional as F


class Encoded:
    """Smooth uint8 images of one seed, in batches of five, and what a first stage encodes them to."""

    def __init__(self, model, n=12, side=32, seed=0):
        self.model = model
        self.pixels = side * side
        coarse = torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        smooth = F.interpolate(coarse, size=side, mode="bilinear")
        self.stored = ((smooth.clamp(-1, 1) + 1) * 127.5).round().byte()

    def __len__(self):
        return len(self.stored)

    def images(self):
        yield from self.stored.split(5)

    def encodings(self):
        with torch.no_grad():
            for batch in self.images():
                yield self.model.encode(batch.float() / 127.5 - 1)
