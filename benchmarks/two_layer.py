"""The integration of two-layer networks beside a plain PyTorch loop over networks, and beside the machine's limits.

    python benchmarks/two_layer.py

The first table integrates 64 networks of width 1,000 to the same loss, batched and by the plain loop: float64,
autograd, Euler steps of c / lambda_max of the network's own tangent kernel, that eigenvalue taken anew every 10 steps.
c is the largest whose RD lies within 1 % of the batched one's (or the smallest tried, if none does). The second takes
one network of width 16,000 and compares the time of its integration with the floor: the bytes that its passes must
move over the bandwidth measured on a working set of the same size, and their operations over the measured rate of
products. Exits with 1 if a limit is exceeded.
"""

import argparse
import os
import sys
import time

import numpy as np
import torch
from numba import njit
from threadpoolctl import threadpool_limits

from twophase.two_layer import Accuracy, Trained, TwoLayer, integrate, with_bias

POINTS = with_bias(np.array([-1, -1 / 3, 1 / 3, 1]))
TARGETS = np.array([0.4, -0.3, 0.5, -0.2])
EXPONENTS = [(0.5, 0.0), (1.0, 0.0), (1.5, 0.0), (1.5, 1.0), (1.0, -0.5), (0.8, 0.5), (1.75, 0.0), (1.5, -0.5)]
SPEEDUP_LIMIT, FLOOR_LIMIT = 10, 3
EULER_STEPS = (0.5, 0.1, 0.02)
ACCURACY = Accuracy()


def main() -> int:
    """Measure both and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (default: 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores, {arguments.threads} threads, float64")
    with threadpool_limits(arguments.threads):
        held = [beside_plain_loop(arguments.threads, arguments.rounds), beside_floor(arguments.rounds)]
    return 0 if all(held) else 1


def beside_plain_loop(threads: int, rounds: int) -> bool:
    """Seconds of 64 networks of width 1,000, both ways."""
    networks = [TwoLayer(gamma, gamma_prime, 1000, seed) for gamma, gamma_prime in EXPONENTS for seed in range(8)]
    integrate(networks[:1], POINTS, TARGETS)  # compile
    batched, plain, results = [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        results = integrate(networks, POINTS, TARGETS, accuracy=ACCURACY, threads=threads)
        batched.append(time.perf_counter() - start)
    print(
        f"\n64 networks of width 1,000 to {ACCURACY.loss_tolerance:g} of the loss; plain: one network a point, times 8"
    )
    print(f"{'gamma, gamma_prime':<20} {'c':>5} {'steps':>7} {'seconds':>8}   RD batched, plain")
    for place, (gamma, gamma_prime) in enumerate(EXPONENTS):
        reference = results[8 * place]
        seconds, steps, distance, c = plain_within_one_percent(reference)
        plain.append(8 * seconds)
        distances = f"{reference.input_distance:.4g}, {distance:.4g}"
        print(f"{gamma:>8}, {gamma_prime:<10} {c:>5} {steps:>7} {seconds:>8.2f}   {distances}", flush=True)
    speedup = sum(plain) / np.median(batched)
    low, high = min(batched), max(batched)
    print(f"batched {np.median(batched):.2f} s [{low:.2f}, {high:.2f}], plain {sum(plain):.1f} s: {speedup:.0f} times")
    print(f"limit: at least {SPEEDUP_LIMIT} times: {'held' if speedup >= SPEEDUP_LIMIT else 'exceeded'}")
    return speedup >= SPEEDUP_LIMIT


def plain_within_one_percent(reference: Trained) -> tuple[float, int, float, float]:
    """The plain loop with the largest steps that are exact enough: seconds, steps, RD, c."""
    for c in EULER_STEPS:
        seconds, steps, distance = plain_loop(reference.network, c)
        if abs(distance / reference.input_distance - 1) < 0.01:
            break
    return seconds, steps, distance, c


def plain_loop(network: TwoLayer, c: float) -> tuple[float, int, float]:
    """Gradient flow as one would write it: seconds, steps and RD."""
    inputs, targets = torch.from_numpy(POINTS), torch.from_numpy(TARGETS)
    initial = torch.from_numpy(network.initial_weights(inputs.shape[1]))
    w, a = (part.clone().requires_grad_() for part in (initial[:, :-1], initial[:, -1]))
    kappa, kappa_prime, count = network.kappa, network.kappa_prime, len(targets)
    goal = ACCURACY.loss_tolerance * float((targets**2).mean() / 2)
    start, step_size = time.perf_counter(), 0.0
    for step in range(1_000_000):
        z = inputs @ w.T
        residual = kappa * torch.relu(z) @ a - targets
        loss = (residual**2).mean() / 2
        if loss.item() <= goal:
            break
        of_w, of_a = torch.autograd.grad(loss, (w, a))
        with torch.no_grad():
            if step % 10 == 0:
                hidden, active = torch.relu(z), (z > 0) * a
                kernel = kappa / kappa_prime * hidden @ hidden.T
                kernel += kappa * kappa_prime * (active @ active.T) * (inputs @ inputs.T)
                escape = (residual.abs() * inputs.norm(dim=1)).mean()
                step_size = c / float(torch.linalg.eigvalsh(kernel)[-1] / count + escape)
            w -= step_size * kappa_prime / kappa * of_w
            a -= step_size / (kappa * kappa_prime) * of_a
    moved = (w.detach() - initial[:, :-1]).norm() / initial[:, :-1].norm()
    return time.perf_counter() - start, step, float(moved)


def beside_floor(rounds: int) -> bool:
    """Time of one integration at width 16,000 over the least that its bytes and operations can take."""
    rates = measured_bandwidth(16_000), measured_products()
    measured = f"{rates[0] / 1e9:.1f} GB/s on the same working set, {rates[1] / 1e9:.1f} GFLOP/s in products"
    print(f"\nwidth 16,000: {measured}")
    print(f"{'gamma, gamma_prime':<20} {'evaluations':>11} {'seconds':>8} {'floor':>8}  times the floor")
    ratios = []
    for gamma, gamma_prime in EXPONENTS[:4]:
        network = TwoLayer(gamma, gamma_prime, 16_000, 0)
        seconds, result = [], None
        for _ in range(rounds):
            start = time.perf_counter()
            result = integrate([network], POINTS, TARGETS, accuracy=ACCURACY)[0]
            seconds.append(time.perf_counter() - start)
        floor = floor_of(result, *rates)
        ratios.append(np.median(seconds) / floor)
        figures = f"{result.evaluations:>11} {np.median(seconds):>8.3f} {floor:>8.3f}  {ratios[-1]:.2f}"
        print(f"{gamma:>8}, {gamma_prime:<10} {figures}", flush=True)
    held = max(ratios) <= FLOOR_LIMIT
    print(f"limit: {FLOOR_LIMIT} times the floor: {'held' if held else 'exceeded'}")
    return held


def floor_of(result: Trained, bandwidth: float, products: float) -> float:
    """Seconds below which an integration can't be: every array that a pass needs is read, or written, once.

    With R = d + 1 rows of weights and n preactivations a neuron, a step's first stage moves 4 R + n numbers, every
    other stage 6 R + 2 n, and the slope at its end 4 R + 2 n. An evaluation's operations are two products with the
    inputs (2 n d each), relu and sums, and the combination of stages. Rejected steps count as stages only.
    """
    count, dimension = POINTS.shape
    rows, width = dimension + 1, result.network.width
    numbers = result.steps * (8 * rows + 3 * count) + (result.evaluations - result.steps) * (6 * rows + 2 * count)
    operations = (4 * count * dimension + 6 * count + 11 * rows) * result.evaluations
    return width * max(8 * numbers / bandwidth, operations / products)


@njit
def _triad(a, b, c):
    for i in range(a.size):
        a[i] = b[i] + 0.5 * c[i]


def measured_bandwidth(width: int) -> float:
    """Bytes a second of a = b + s c on arrays that together are as large as an integration's."""
    size = (6 * (POINTS.shape[1] + 1) + len(POINTS)) * width // 3
    a, b, c = np.zeros((3, size))
    return 24 * size / best_time(lambda: _triad(a, b, c))


def measured_products() -> float:
    """Operations a second of a matrix product, on one thread."""
    a = np.random.default_rng(0).standard_normal((512, 512))
    with threadpool_limits(1):
        return 2 * 512**3 / best_time(lambda: a @ a)


def best_time(call) -> float:
    """Seconds of the fastest of 20 calls."""
    call()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
