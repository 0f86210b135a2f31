"""Message passing on a graph until nothing changes: labels spread from a few nodes, over edges that are learnt.

    z_i = alpha sum_j S_ij z_j + (1 - alpha) y_i,    S_ij = W_ij / sqrt(d_i d_j),    d_i = sum_j W_ij

y has the labels -1 and 1 of the labelled nodes, 0 elsewhere; W_ij = exp(-sum_k a_k (x_ik - x_jk)^2) between any two
nodes, along a list of edges, as messages are sent in sparse graphs. Of the three features of x one is noise; the
weights a are learnt from the labels of further nodes V, by gradient descent on

    L(a) = mean over V of log(1 + exp(-4 y_i z_i / max_j |z_j|))

The known answers: z = (1 - alpha) (I - alpha S)^-1 y by a dense solve, and, with u = (I - alpha S)^-T dL/dz,

    dL/da_k = alpha u^T (dS/da_k) z,    dS/da_k = S' - (D'/D S + S D'/D) / 2,    S' = S * -(x_ik - x_jk)^2

with D' the row sums of dW/da_k.

Source: Zhou et al., "Learning with Local and Global Consistency", 2004.

Run: python examples/message_passing.py [PICTURE.png]
"""

import sys

import torch
from sklearn.datasets import make_moons
from torch import Tensor

from deqzoo.implicit import Anderson, fixed_point

NODES, ALPHA = 80, 0.95
LABELLED, FURTHER = torch.arange(0, 6), torch.arange(6, 30)


def draw_data() -> tuple[Tensor, Tensor]:
    """x, two half moons and a feature of noise, (NODES, 3), and the classes -1 and 1."""
    moons, classes = map(torch.from_numpy, make_moons(NODES, noise=0.1, random_state=0))
    noise = torch.randn(NODES, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([moons, noise], dim=1), 2.0 * classes.double() - 1


def spread(a: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """z, (NODES,), a differentiable function of a."""
    sender, receiver = (1 - torch.eye(NODES)).nonzero().T
    weights = torch.exp(-((x[sender] - x[receiver]) ** 2 @ a))
    degrees = torch.zeros_like(y).index_add(0, receiver, weights)
    strengths = weights / (degrees[sender] * degrees[receiver]).sqrt()

    def update(z: Tensor, strengths: Tensor) -> Tensor:
        messages = strengths * z[sender]
        return ALPHA * torch.zeros_like(z).index_add(0, receiver, messages) + (1 - ALPHA) * y

    return fixed_point(update, torch.zeros_like(y), strengths, solver=Anderson(tol=1e-14, max_steps=500))


def loss(z: Tensor, classes: Tensor) -> Tensor:
    """L, of the nodes `FURTHER`."""
    return torch.nn.functional.softplus(-4 * classes[FURTHER] * z[FURTHER] / z.abs().max()).mean()


def known(a: Tensor, x: Tensor, y: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """z and dL/da by dense solves."""
    squares = (x[:, None] - x) ** 2
    W = torch.exp(-squares @ a).fill_diagonal_(0)
    degrees = W.sum(dim=1)
    S = W / (degrees[:, None] * degrees).sqrt()
    system = torch.eye(NODES, dtype=torch.float64) - ALPHA * S
    z = torch.linalg.solve(system, (1 - ALPHA) * y)
    u = torch.linalg.solve(system.T, torch.func.grad(loss)(z, classes))
    change = -(W[:, :, None] * squares).sum(dim=1) / degrees[:, None]  # D' / D, (nodes, features)
    slopes = -S[:, :, None] * squares - S[:, :, None] * (change[:, None] + change) / 2
    return z, ALPHA * torch.einsum("i,ijk,j->k", u, slopes, z)


def learn(steps: int = 40) -> tuple[Tensor, list[Tensor], float, float]:
    """The weights, z before and after, and the worst relative errors of z and of the gradient on the way."""
    x, classes = draw_data()
    y = torch.zeros_like(classes).index_copy(0, LABELLED, classes[LABELLED])
    log_a = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer, found, worst = torch.optim.Adam([log_a], lr=0.2), [], [0.0, 0.0]
    for _ in range(steps):
        z = spread(log_a.exp(), x, y)
        optimizer.zero_grad()
        loss(z, classes).backward()
        known_z, slope = known(log_a.detach().exp(), x, y, classes)
        slope = slope * log_a.detach().exp()
        found.append(z.detach())
        worst[0] = max(worst[0], float((found[-1] - known_z).norm() / known_z.norm()))
        worst[1] = max(worst[1], float((log_a.grad - slope).norm() / slope.norm()))
        optimizer.step()
    return log_a.detach().exp(), [found[0], found[-1]], *worst


def main() -> dict[str, float]:
    """Relative errors of z and of the gradient, the largest of all steps."""
    a, states, error, gradient_error = learn()
    unseen = draw_data()[1][len(LABELLED) + len(FURTHER) :]
    wrong = [int((z[-len(unseen) :] * unseen <= 0).sum()) for z in states]
    print(f"weights {a.numpy().round(2)}: of {len(unseen)} other nodes {wrong[0]} wrong before, {wrong[1]} after")
    return {"states": error, "gradient in the weights": gradient_error}


def draw_picture(file: str) -> None:
    """The nodes, coloured by z, before and after."""
    from matplotlib.figure import Figure

    x = draw_data()[0]
    figure = Figure((7, 2.5), layout="constrained")
    for axes, z, title in zip(figure.subplots(1, 2), learn()[1], ("equal weights", "weights learnt"), strict=True):
        axes.scatter(*x[:, :2].T, c=z / z.abs().max(), cmap="coolwarm", vmin=-0.5, vmax=0.5, s=20)
        axes.scatter(*x[LABELLED, :2].T, facecolors="none", edgecolors="black", s=80, label="labelled")
        axes.set(title=title, xticks=[], yticks=[])
    axes.legend()
    figure.savefig(file, dpi=90)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:26s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
