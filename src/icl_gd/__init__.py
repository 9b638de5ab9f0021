"""How attention layers learn in context by gradient descent: the code behind the book.

Modules, each of which imports only those before it: ``tasks``, ``corpus``, ``tokens``,
``attention``, ``fast``, ``online``, ``induction``, ``descent``, ``constructions``,
``theory``, ``curves``, ``moments``, ``flow``, ``training``, ``measures``, ``real``;
what only pages use is in ``icl_gd.book``.
Functions treat one example; ``jax.vmap`` adds the batch, once, in the caller. What
their signatures say is checked when they are called or traced (``_annotations``).

A layer of attention that takes a step of gradient descent:

>>> import jax
>>> import jax.numpy as jnp
>>> from icl_gd import attention, constructions, descent, tasks
>>> jax.config.update("jax_default_matmul_precision", "highest")  # exact on GPUs too
>>> task = tasks.regression(jax.random.key(0), n=10, d=3)
>>> w0, eta = jnp.zeros((1, 3)), 2.0
>>> layer = constructions.gradient_step(eta, n=10, w0=w0)
>>> w1 = descent.gradient_descent(w0, task.x, task.y, eta, steps=1)[-1]
>>> attends, descends = attention.predict([layer], task), w1 @ task.x_query
>>> bool(jnp.allclose(attends, descends, atol=1e-6))
True

Papers that docstrings name by author and year:

- von Oswald et al. (2022), https://arxiv.org/abs/2212.07677
- Zheng et al. (2024), https://arxiv.org/abs/2405.16845
- Olsson et al. (2022), https://transformer-circuits.pub/2022/in-context-learning-and-induction-heads
- Elhage et al. (2021), https://transformer-circuits.pub/2021/framework
- Schlag et al. (2021), https://arxiv.org/abs/2102.11174
- Yang et al. (2024), https://arxiv.org/abs/2406.06484, gated: https://arxiv.org/abs/2412.06464
- Liu et al. (2024), https://arxiv.org/abs/2407.14207
- Sun et al. (2024), https://arxiv.org/abs/2407.04620
- von Oswald et al. (2023), https://arxiv.org/abs/2309.05858, (2025): https://arxiv.org/abs/2506.05233
- Zhang and Sennrich (2019), https://arxiv.org/abs/1910.07467
- Su et al. (2021), https://arxiv.org/abs/2104.09864
- Shazeer (2020), https://arxiv.org/abs/2002.05202
- Gage (1994), A new algorithm for data compression, The C Users Journal 12(2)
- Sennrich et al. (2016), https://arxiv.org/abs/1508.07909
"""

from jaxtyping import install_import_hook

# Before the hook, which asks for the first and leaves the others as they are: to check
# every one of a hundred thousand calls would cost _gguf seconds.
from icl_gd import _annotations, _gguf, _precision, _require  # noqa: F401

__version__ = "0.1.0"

install_import_hook("icl_gd", "icl_gd._annotations.checked")
