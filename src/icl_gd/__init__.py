"""How attention layers learn in context by gradient descent: the code behind the book.

Modules, each of which imports only those before it: ``tasks``, ``corpus``, ``tokens``,
``attention``, ``induction``, ``descent``, ``constructions``, ``theory``, ``flow``,
``training``, ``measures``, ``plots``, ``views``, ``claims``, ``records``, ``setup``.
Functions treat one example; ``jax.vmap`` adds the batch, once, in the caller.
"""

__version__ = "0.1.0"
