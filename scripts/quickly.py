"""Less compiling on a processor, for the tests and the check of pages.

Notebooks are made, and readers compile, in the usual way: what a page prints is the same both
ways, to its last digit. XLA and JAX are told so in ways that they may change, so that nothing is
done but with the versions where this was tried.
"""

import math
import os
from functools import cache
from importlib.metadata import version

import numpy as np

TRIED = "0.10."  # of jax and jaxlib
FLAG = "--xla_cpu_use_fusion_emitters"
# A program that computes fewer numbers is done, not optimised, before LLVM has optimised it.
FEW = 100_000_000


def older_way():
    """Sets XLA's flag for the older of its two ways: half the time for a little program.

    XLA ends the process at a flag that it does not have.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if version("jaxlib").startswith(TRIED) and FLAG not in given:
        os.environ["XLA_FLAGS"] = f"{given} {FLAG}=false".strip()


def numbers(module):
    """How many numbers a program computes; infinitely many in a loop that may end at any time."""
    from jaxlib.mlir import ir

    functions = {each.attributes["sym_name"].value: each for each in module.body.operations}

    def within(blocks):
        return sum(of(each) for block in blocks for each in block.operations)

    @cache
    def of_function(name):
        return within(functions[name].regions[0].blocks)

    def rounds(condition):
        end, *test = condition.blocks[0].operations
        names = [each.name for each in (end, *test)]
        counted = names == ["stablehlo.constant", "stablehlo.compare", "stablehlo.return"]
        return int(np.array(end.attributes["value"])) if counted else math.inf

    def of(operation):
        if operation.name == "func.call":
            return of_function(operation.attributes["callee"].value)
        if operation.name == "stablehlo.while":
            condition, body = operation.regions
            return rounds(condition) * within(body.blocks)
        shapes = [
            each.type.shape
            for each in operation.results
            if isinstance(each.type, ir.RankedTensorType)
        ]
        return sum(map(math.prod, shapes)) + sum(within(each.blocks) for each in operation.regions)

    return of_function("main")


def little():
    """Lets LLVM optimise nothing in programs that compute little, and the others at its level 1.

    The former as ``jax_disable_most_optimizations`` does it for all. Level 1 takes two thirds of
    the time of XLA's own level, 3, and what it compiles is as fast.
    """
    if not version("jax").startswith(TRIED):
        return
    from jax._src import compiler

    compile_ = compiler.compile_or_get_cached

    def compile_quickly(backend, module, devices, options, *rest):
        if backend.platform == "cpu":
            debug, few = options.executable_build_options.debug_options, numbers(module) < FEW
            debug.xla_backend_optimization_level = 0 if few else 1
            debug.xla_llvm_disable_expensive_passes = few
        return compile_(backend, module, devices, options, *rest)

    compiler.compile_or_get_cached = compile_quickly
