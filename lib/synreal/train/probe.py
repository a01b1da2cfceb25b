"""A linear probe: the best linear classifier on features that stay as they are."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RIDGE = 1e-3  # weight of the squared coefficients, on features of unit variance
ITERATIONS = 100


def linear_probe(features: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """Logistic regression on float [N, D] features, int64 [N] labels, as the layer that replaces a head.

    Features are standardised, and the layer takes them as they come. The loss is convex, so the result is a
    function of the data alone.
    """
    mean, std = features.mean(0), features.std(0) + 1e-6
    scaled = (features - mean) / std
    layer = nn.Linear(features.shape[1], classes).to(features.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(scaled), labels) + RIDGE * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        layer.weight.div_(std)
        layer.bias.sub_(layer.weight @ mean)
    return layer
