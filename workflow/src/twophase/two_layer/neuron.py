"""What is computed of one neuron and four examples: the innermost expressions of every loop over neurons."""

from twophase.two_layer.compiled import inlined

EXAMPLES, FEATURES = 4, 2  # taken together, so that sums stay in registers


@inlined
def four(rows, i):
    """Rows i to i + 3, those of four examples."""
    return rows[i], rows[i + 1], rows[i + 2], rows[i + 3]


@inlined
def at(rows, lane):
    """A neuron's number in each of four rows."""
    return rows[0][lane], rows[1][lane], rows[2][lane], rows[3][lane]


@inlined
def where_active(value, z):
    """The value for those of four examples for which a neuron is active, z > 0, else 0."""
    return (
        value if z[0] > 0.0 else 0.0,
        value if z[1] > 0.0 else 0.0,
        value if z[2] > 0.0 else 0.0,
        value if z[3] > 0.0 else 0.0,
    )


@inlined
def relu(z):
    """The hidden values of four examples."""
    return max(z[0], 0.0), max(z[1], 0.0), max(z[2], 0.0), max(z[3], 0.0)


@inlined
def sum_of_products(p, q):
    """Over four examples."""
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2] + p[3] * q[3]


@inlined
def of_slide(slide, values):
    """The value of the example along whose kink a neuron slides; 0 if that is none of the four, numbered 0 to 3."""
    low = values[0] if slide == 0 else (values[1] if slide == 1 else 0.0)
    return low + (values[2] if slide == 2 else (values[3] if slide == 3 else 0.0))


@inlined
def share(speed, jump):
    """The share of the jump that keeps z at 0; a share below 0 or above 1 can't be had: the neuron leaves its kink."""
    return min(max(-speed, min(jump, 0.0)), max(jump, 0.0))
