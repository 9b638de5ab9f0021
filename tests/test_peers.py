"""The layers against what published code gave (`make peers` runs that code itself)."""

import jax.numpy as jnp
import numpy as np
import peers
import pytest

from icl_gd import online

RECORDED = peers.recorded()


def apart(name):
    """Ours in float64, on the inputs as recorded."""
    inputs, theirs = RECORDED[name]
    wide = {of: a.astype(np.float64) for of, a in inputs.items()}
    return max(peers.differences(peers.ours_of(peers.CASES[name], wide), theirs))


def limit(name):
    """Theirs is rounded to float32 at each of 64 positions; one case exists in float64 only."""
    return peers.CASES[name].single or peers.CASES[name].double


def test_every_case_is_recorded_by_the_versions_that_are_pinned():
    assert RECORDED.keys() == peers.CASES.keys()
    pins = dict(line.split("==") for line in peers.PINS.read_text().split())
    assert pins.items() <= peers.about().items()
    assert peers.RECORD.stat().st_size < 200_000


@pytest.mark.parametrize("name", RECORDED)
def test_values_and_gradients_are_those_of_published_code(name):
    assert apart(name) < limit(name)


def test_a_residual_at_the_state_before_its_decay_is_noticed(monkeypatch):
    def step(rule, memory, k, v, beta, alpha=1.0):
        residual = memory.state @ k - v
        return memory._replace(state=alpha * memory.state - beta * jnp.outer(residual, k))

    monkeypatch.setattr(online, "step", step)
    assert apart("fla delta_rule recurrence") < limit("fla delta_rule recurrence")  # no decay
    assert apart("Qwen3-Next recurrent") > 1000 * limit("Qwen3-Next recurrent")
